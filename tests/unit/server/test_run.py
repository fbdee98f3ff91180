"""How many workers a relay has."""

import os
from pathlib import Path

import pytest

from masque_relay.config import RelayConfig, load_config
from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.contract.errors import ConfigError
from masque_relay.quic.slots import MAX_WORKERS
from masque_relay.server.run import worker_count


def config(directory: Path, **values: object) -> RelayConfig:
    state = prepare_dev_state(directory)
    overrides: dict[tuple[str | int, ...], object] = {
        ("ghostwire", "enabled"): False,
        ("connect_ip", "enabled"): False,
    }
    overrides |= {(key,): value for key, value in values.items()}
    return load_config(state.config_file, environ={}, overrides=overrides)


def test_the_configuration_decides(tmp_path: Path) -> None:
    assert worker_count(config(tmp_path, workers=3), 1) == 3
    assert worker_count(config(tmp_path), 1) == 1


def test_otherwise_there_is_one_per_core_that_we_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores, workers in ((1, 1), (6, 6), (500, MAX_WORKERS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert worker_count(config(tmp_path)) == workers


@pytest.mark.parametrize("section", ["ghostwire", "connect_ip", "derp"])
def test_what_lives_in_one_process_has_one_worker(tmp_path: Path, section: str) -> None:
    both_off = config(tmp_path, workers=4)
    assert worker_count(both_off) == 4
    on = getattr(both_off, section).model_copy(update={"enabled": True})
    assert worker_count(both_off.model_copy(update={section: on})) == 1


def test_turn_has_one_worker(tmp_path: Path) -> None:
    off = config(tmp_path, workers=4)
    on = off.turn.model_copy(update={"on_https_port": True})
    assert worker_count(off.model_copy(update={"turn": on})) == 1


@pytest.mark.parametrize("count", [0, -1, MAX_WORKERS + 1])
def test_too_few_and_too_many_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ConfigError, match="workers"):
        config(tmp_path, workers=count)
