"""One relay with TURN per module."""

from collections.abc import Generator

import pytest

from tests.support.turn_relay import TurnRelay, turn_relay


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Generator[TurnRelay]:
    with turn_relay(tmp_path_factory.mktemp("turn")) as running:
        yield running
