"""Owns the dry run: everything that a start would read, read and checked, nothing bound."""

import time
from concurrent.futures import ThreadPoolExecutor

from masque_relay.config import RelayConfig
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.state import build_state
from masque_relay.server.material import load_material


def check_files(config: RelayConfig) -> None:
    """Read policy, keys, certificates and tokens that the configuration names.

    Raises:
        ConfigError: with the problems of all of them together.
    """
    problems: list[Problem] = []
    try:
        load_material(config)
    except ConfigError as error:
        problems += error.problems
    with ThreadPoolExecutor(1) as pool:
        try:
            build_state(config.gate, now_s=time.time(), pool=pool)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
