"""Owns how ghostctl reports a configuration that can't be used."""

from collections.abc import Generator
from contextlib import contextmanager

import click

from masque_relay.cli.output import ExitCode
from masque_relay.contract.errors import ConfigError


@contextmanager
def config_errors() -> Generator[None]:
    """Turn a ConfigError into lines on stderr and the exit code for bad input."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        raise SystemExit(int(ExitCode.USAGE)) from None
