"""Owns the relay process that the client's tests share: one a module, because it takes a second."""

from collections.abc import Generator

import pytest

from tests.support.managed_relay import ManagedRelay, managed_relay


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    """A development relay, as a user runs it."""
    with managed_relay(tmp_path_factory.mktemp("relay")) as running:
        yield running
