"""A state is built whole, or every problem of every file is named."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.control.settings import (
    BasicSettings,
    BearerSettings,
    GateSettings,
    IssuerSettings,
    MtlsSettings,
)
from masque_relay.control.state import build_state
from tests.support.client_certificates import Authority
from tests.support.gates import NOW_S, WEB_POLICY


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_the_problems_of_all_files_are_reported_together(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    (tmp_path / "policy.toml").write_text("[[rule]]\n")
    settings = GateSettings(
        policy_file=tmp_path / "policy.toml",
        bearer=BearerSettings(
            audiences=("a",), issuers=(IssuerSettings(issuer="i", key_files=(tmp_path / "k",)),)
        ),
        basic=BasicSettings(users_file=tmp_path / "users.toml"),
        mtls=MtlsSettings(ca_files=(tmp_path / "ca.pem",)),
    )
    with pytest.raises(ConfigError) as caught:
        build_state(settings, now_s=NOW_S, pool=pool)
    files = {Path(problem.file or "").name for problem in caught.value.problems}
    assert files == {"policy.toml", "k", "users.toml", "ca.pem"}


def test_a_gate_that_accepts_no_credential_is_refused(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    (tmp_path / "policy.toml").write_text(WEB_POLICY)
    with pytest.raises(ConfigError, match="no kind of credential is accepted"):
        build_state(GateSettings(policy_file=tmp_path / "policy.toml"), now_s=NOW_S, pool=pool)


def test_one_kind_of_credential_is_enough(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    (tmp_path / "policy.toml").write_text(WEB_POLICY)
    (tmp_path / "ca.pem").write_bytes(Authority.make().pem)
    settings = GateSettings(
        policy_file=tmp_path / "policy.toml", mtls=MtlsSettings(ca_files=(tmp_path / "ca.pem",))
    )
    state = build_state(settings, now_s=NOW_S, pool=pool)
    assert [rule.name for rule in state.policy.rules] == ["web"]
