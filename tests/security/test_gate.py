"""Floods and hostile credentials: bounded work, bounded memory, and neighbours do not notice."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    ClientCertificate,
    Credential,
    MalformedCredential,
)
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.settings import BasicSettings, GateLimits, MtlsSettings
from tests.support.client_certificates import Authority
from tests.support.gates import GateBench


async def test_ten_thousand_opens_of_one_identity_are_bounded_and_a_neighbour_gets_in(
    tmp_path: Path,
) -> None:
    bench = GateBench(tmp_path, limits=GateLimits(tunnels_per_subject=300, open_burst=400))
    request = bench.request()
    results = [await bench.gate.admit(request) for _ in range(10_000)]
    reasons = [result.reason for result in results if isinstance(result, Denial)]
    assert len(results) - len(reasons) == 300
    assert reasons.count(DenyReason.TUNNEL_QUOTA) == 100
    assert reasons.count(DenyReason.OPEN_RATE) == 9_600
    assert bench.gate.tunnel_count == 300
    await bench.open(bench.request(subject="neighbour"))


async def test_what_strangers_send_leaves_nothing_behind(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    for number in range(2_000):
        await bench.denied(bench.request(credentials=(BearerToken(token=f"a.b.{number}"),)))
    gate = bench.gate
    assert gate.tunnel_count == 0
    assert not gate._book._buckets
    assert not gate._book._counts
    assert sum(gate.decisions.values()) == 2_000
    assert len(gate.decisions) == 1


CREDENTIALS: st.SearchStrategy[Credential] = st.one_of(
    st.text(max_size=60).map(lambda text: BearerToken(token=text)),
    st.builds(BasicPassword, user=st.text(max_size=20), password=st.text(max_size=20)),
    st.lists(st.binary(max_size=40), max_size=3).map(
        lambda chain: ClientCertificate(chain_der=tuple(chain))
    ),
    st.text(max_size=10).map(lambda text: MalformedCredential(scheme=text)),
)


@pytest.fixture
def bench(tmp_path: Path) -> GateBench:
    """Return a gate that accepts every kind of credential."""
    (tmp_path / "ca.pem").write_bytes(Authority.make().pem)
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("x")
    (tmp_path / "users.toml").write_text(f'[user.alice]\npassword_hash = "{cheap}"\n')
    return GateBench(
        tmp_path,
        change=lambda given: replace(
            given,
            basic=BasicSettings(users_file=tmp_path / "users.toml"),
            mtls=MtlsSettings(ca_files=(tmp_path / "ca.pem",)),
        ),
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the gate keeps nothing
)
@given(credentials=st.lists(CREDENTIALS, max_size=3))
def test_no_credential_makes_the_gate_raise_or_admit(
    bench: GateBench, credentials: list[Credential]
) -> None:
    request = bench.request(credentials=tuple(credentials))
    assert isinstance(asyncio.run(bench.gate.admit(request)), Denial)
