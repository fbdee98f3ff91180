"""Owns the two implementations of the fast path, for tests that both must pass."""

import pytest

from masque_relay.quic import fastpath
from masque_relay.quic.accelerator import is_compiled


@pytest.fixture(params=["python", "accelerator"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with packets opened and sealed in Python, and by the accelerator."""
    name: str = request.param
    if name == "accelerator" and not is_compiled():
        pytest.skip("the accelerator is not compiled here: make accelerator")
    monkeypatch.setattr(fastpath, "is_compiled", lambda: name == "accelerator")
    return name
