"""Owns what every unit test of the data plane needs: a kernel that has GSO, without asking it."""

import pytest

from masque_relay.dataplane import offload


@pytest.fixture(autouse=True)
def kernel_with_gso(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "kernel_has_gso", lambda: True)
    monkeypatch.setattr(offload.sys, "platform", "linux")
