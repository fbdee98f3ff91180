"""Settings are values: frozen, and safe by default."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from masque_relay.control.settings import BearerSettings, GateSettings, IssuerSettings


def test_settings_can_not_be_changed_behind_the_gates_back() -> None:
    settings = GateSettings(policy_file=Path("policy.toml"))
    with pytest.raises(FrozenInstanceError):
        settings.recheck_tunnels = False  # type: ignore[misc]  # that it fails is the test


def test_shared_secrets_and_unlimited_opens_have_to_be_asked_for() -> None:
    issuer = IssuerSettings(issuer="i")
    bearer = BearerSettings(issuers=(issuer,), audiences=("a",))
    limits = GateSettings(policy_file=Path("policy.toml"), bearer=bearer).limits
    assert issuer.hs256_secret_file is None
    assert limits.opens_per_s <= 100
    assert limits.tunnels_per_subject < limits.max_tunnels
