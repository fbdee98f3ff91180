"""Owns the relay behind nginx."""

from collections.abc import Generator

import pytest

from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.method_trials import TRIAL_CONFIG, TRIAL_POLICY


@pytest.fixture(scope="package")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    directory = tmp_path_factory.mktemp("relay")
    with managed_relay(directory, policy=TRIAL_POLICY, config=TRIAL_CONFIG) as running:
        yield running
