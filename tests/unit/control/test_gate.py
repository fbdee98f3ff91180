"""The gate: every reason to say no, in its situation; records; reloads; revocation."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    Credential,
    MalformedCredential,
    Method,
    NodeKey,
    Transport,
)
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.control.auth.keys import generate_signing_key
from masque_relay.control.auth.tokens import issue_token
from masque_relay.control.revocation import RevocationError
from masque_relay.control.settings import GateLimits, NodeKeySettings
from masque_relay.wire.node_key import format_node_key
from tests.support.gates import AUDIENCE, ISSUER, WEB_POLICY, EndRecorder, GateBench

PUBLIC = ip_address("1.1.1.1")


async def no_credential(bench: GateBench) -> Denial | None:
    return await bench.denied(bench.request(credentials=()))


async def unreadable_credential(bench: GateBench) -> Denial | None:
    return await bench.denied(bench.request(credentials=(MalformedCredential(scheme="x"),)))


async def expired_token(bench: GateBench) -> Denial | None:
    request = bench.request()
    bench.clock.advance(3600)
    return await bench.denied(request)


async def foreign_audience(bench: GateBench) -> Denial | None:
    token = BearerToken(token=bench.token(audience="another.example"))
    return await bench.denied(bench.request(credentials=(token,)))


async def revoked_subject(bench: GateBench) -> Denial | None:
    bench.gate.revoke(subject="alice", token_id=None)
    return await bench.denied()


async def no_rule(bench: GateBench) -> Denial | None:
    return await bench.denied(bench.request("example.org:53"))


async def loopback_literal(bench: GateBench) -> Denial | None:
    return await bench.denied(bench.request("127.0.0.1:443"))


async def loopback_by_name(bench: GateBench) -> Denial | None:
    return bench.gate.admit_address(await bench.open(), ip_address("127.0.0.1"), 443)


async def too_many_tunnels(bench: GateBench) -> Denial | None:
    for _ in range(4):
        await bench.open()
    return await bench.denied()


async def opens_too_fast(bench: GateBench) -> Denial | None:
    for _ in range(20):
        (await bench.open()).release(EndReason.PEER_CLOSED)
    return await bench.denied()


async def bytes_of_today_used_up(bench: GateBench) -> Denial | None:
    bench.reload(f"{WEB_POLICY}limits = {{ bytes_per_subject_per_day = 10 }}\n")
    lease = await bench.open()
    lease.uplink.take(1, 10)
    lease.release(EndReason.PEER_CLOSED)
    return await bench.denied()


async def relay_full(bench: GateBench) -> Denial | None:
    for number in range(6):
        await bench.open(bench.request(subject=f"s{number}"))
    return await bench.denied()


async def draining(bench: GateBench) -> Denial | None:
    bench.gate.drain()
    return await bench.denied()


SITUATIONS: list[tuple[Callable[[GateBench], Awaitable[Denial | None]], DenyReason]] = [
    (no_credential, DenyReason.CREDENTIAL_MISSING),
    (unreadable_credential, DenyReason.CREDENTIAL_INVALID),
    (expired_token, DenyReason.CREDENTIAL_EXPIRED),
    (foreign_audience, DenyReason.CREDENTIAL_AUDIENCE),
    (revoked_subject, DenyReason.REVOKED),
    (no_rule, DenyReason.POLICY),
    (loopback_literal, DenyReason.ADDRESS_PROHIBITED),
    (loopback_by_name, DenyReason.ADDRESS_PROHIBITED),
    (too_many_tunnels, DenyReason.TUNNEL_QUOTA),
    (opens_too_fast, DenyReason.OPEN_RATE),
    (bytes_of_today_used_up, DenyReason.BYTE_QUOTA),
    (relay_full, DenyReason.OVERLOADED),
    (draining, DenyReason.DRAINING),
]
TIGHT = GateLimits(max_tunnels=6, tunnels_per_subject=4, opens_per_s=1.0, open_burst=20)


@pytest.mark.parametrize(
    ("situation", "reason"), SITUATIONS, ids=[situation.__name__ for situation, _ in SITUATIONS]
)
async def test_every_situation_has_its_reason_its_record_and_its_count(
    tmp_path: Path,
    situation: Callable[[GateBench], Awaitable[Denial | None]],
    reason: DenyReason,
) -> None:
    bench = GateBench(tmp_path, limits=TIGHT)
    denial = await situation(bench)
    assert denial is not None
    assert denial.reason is reason
    assert bench.audit.records[-1]["result"] == "deny"
    assert bench.audit.records[-1]["reason"] == reason.value
    assert bench.gate.decisions["h3", "connect-udp", reason.value] == 1


def test_no_reason_is_without_a_situation() -> None:
    assert {reason for _, reason in SITUATIONS} == set(DenyReason)


async def test_an_admission_writes_one_record_that_says_who_what_and_why(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    lease = await bench.open()
    (record,) = bench.audit.records
    assert record == {
        "at": "2023-11-14T22:13:20.000+00:00",
        "event": "decision",
        "result": "allow",
        "request_id": "r-1",
        "transport": "h3",
        "method": "connect-udp",
        "target": "example.org:443",
        "source": "203.0.113.9:50000",
        "policy": bench.gate.policy.digest,
        "subject": "alice",
        "credential": "bearer",
        "token_id": lease.principal.token_id,
        "lease_id": lease.lease_id,
        "rule": "web",
    }
    assert bench.gate.admit_address(lease, PUBLIC, 443) is None
    assert len(bench.audit.records) == 1


async def test_no_record_holds_a_secret(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    secrets: tuple[Credential, ...] = (
        BearerToken(token=bench.token()),
        BearerToken(token="not-a-token-but-secret"),
        BasicPassword(user="alice", password="hunter2"),
    )
    for secret in secrets:
        await bench.gate.admit(bench.request(credentials=(secret,)))
    text = repr(bench.audit.records)
    assert "hunter2" not in text
    assert "but-secret" not in text
    assert bench.token()[:40] not in text


async def test_quotas_are_shared_by_all_transports(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, limits=GateLimits(tunnels_per_subject=2))
    await bench.open(bench.request(transport=Transport.HTTP3))
    await bench.open(bench.request(transport=Transport.TURN))
    denial = await bench.denied(bench.request(transport=Transport.WEBSOCKET))
    assert denial.reason is DenyReason.TUNNEL_QUOTA
    assert bench.gate.tunnels_open() == {("h3", "connect-udp"): 1, ("turn", "connect-udp"): 1}


async def test_each_resolved_address_is_decided_with_name_and_address(tmp_path: Path) -> None:
    policy = """
[[rule]]
name = "not-there"
action = "deny"
who = ["*"]
methods = ["*"]
targets = ["8.8.8.0/24:*"]
[[rule]]
name = "lab"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["10.0.0.0/8:53", "*.lab.example:53"]
"""
    bench = GateBench(tmp_path, policy=policy)
    lease = await bench.open(bench.request("db.lab.example:53"))
    answers = {
        text: bench.gate.admit_address(lease, ip_address(text), 53)
        for text in ("10.1.1.1", "1.1.1.1", "8.8.8.8", "127.0.0.1", "::ffff:10.1.1.1")
    }
    reasons = {text: denial and denial.reason for text, denial in answers.items()}
    assert reasons == {
        "10.1.1.1": None,
        "1.1.1.1": None,
        "8.8.8.8": DenyReason.POLICY,
        "127.0.0.1": DenyReason.ADDRESS_PROHIBITED,
        "::ffff:10.1.1.1": None,
    }
    assert [record["address"] for record in bench.audit.of("address")] == ["8.8.8.8", "127.0.0.1"]


async def test_a_lease_without_a_single_target_is_checked_address_by_address(
    tmp_path: Path,
) -> None:
    policy = WEB_POLICY.replace("connect-udp", "bind-udp").replace("*:443", "*")
    bench = GateBench(tmp_path, policy=policy)
    lease = await bench.open(bench.request(None, method=Method.BIND_UDP))
    for number in range(100):
        assert bench.gate.admit_address(lease, ip_address(f"1.1.1.{number}"), 5000) is None
    assert bench.gate.admit_address(lease, ip_address("10.0.0.1"), 5000) is not None
    assert lease.addresses == ()


async def test_an_address_is_refused_when_the_lease_is_over(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    lease = await bench.open()
    bench.gate.kick(lease.lease_id)
    assert bench.gate.admit_address(lease, PUBLIC, 443) is not None


async def test_a_lease_of_somebody_else_is_a_bug_not_a_permission(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    with pytest.raises(TypeError):
        bench.gate.admit_address(object(), PUBLIC, 443)  # type: ignore[arg-type]  # the test


@pytest.mark.parametrize("by", ["subject", "token_id"])
async def test_revocation_ends_running_tunnels_on_every_transport_and_refuses_new_ones(
    tmp_path: Path, by: str
) -> None:
    bench = GateBench(tmp_path)
    token = (BearerToken(token=bench.token(token_id="t-1")),)
    recorders = [
        EndRecorder(await bench.open(bench.request(credentials=token, transport=transport)))
        for transport in Transport
    ]
    other = EndRecorder(await bench.open(bench.request(subject="bob")))
    ended = bench.gate.revoke(
        subject="alice" if by == "subject" else None, token_id="t-1" if by == "token_id" else None
    )
    assert ended == len(Transport)
    assert [recorder.reasons for recorder in recorders] == [[EndReason.REVOKED]] * len(Transport)
    assert other.reasons == []
    assert (await bench.denied(bench.request(credentials=token))).reason is DenyReason.REVOKED
    if by == "token_id":
        await bench.open(bench.request())
    else:
        assert (await bench.denied()).reason is DenyReason.REVOKED
        assert bench.gate.reinstate("alice")
        await bench.open()


async def test_tunnels_end_even_when_the_revocation_can_not_be_saved(tmp_path: Path) -> None:
    bench = GateBench(
        tmp_path,
        change=lambda settings: replace(settings, revocations_file=tmp_path / "no" / "list.json"),
    )
    recorder = EndRecorder(await bench.open())
    with pytest.raises(RevocationError):
        bench.gate.revoke(subject="alice", token_id=None)
    assert recorder.reasons == [EndReason.REVOKED]
    assert (await bench.denied()).reason is DenyReason.REVOKED


async def test_a_revoked_token_id_is_forgotten_when_the_token_has_expired(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    token = BearerToken(token=bench.token(token_id="t-1"))
    await bench.open(bench.request(credentials=(token,)))
    bench.gate.revoke(subject=None, token_id="t-1")
    bench.gate.revoke(subject=None, token_id="never-seen")
    assert bench.gate._revocations._token_ids == {
        "t-1": bench.clock.wall_s() + 3600,
        "never-seen": bench.clock.wall_s() + GateLimits().revocation_keep_s,
    }


def test_a_revocation_of_nobody_is_refused(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    with pytest.raises(ValueError, match="subject or a token id"):
        bench.gate.revoke(subject="", token_id=None)


async def test_a_bad_reload_changes_nothing_and_says_everything(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    recorder = EndRecorder(await bench.open())
    before = bench.gate.policy
    assert bench.settings.bearer is not None
    broken = replace(bench.settings.bearer, audiences=())
    with pytest.raises(ConfigError) as caught:
        bench.reload("[[rule]]\nname = 3\n", bearer=broken)
    text = str(caught.value)
    assert "policy.toml:2: rule[0].name" in text
    assert "at least one audience" in text
    assert bench.gate.policy is before
    assert recorder.reasons == []
    await bench.open()


async def test_a_good_reload_decides_new_tunnels_and_checks_the_running_ones(
    tmp_path: Path,
) -> None:
    bench = GateBench(tmp_path)
    alice, bob = [
        EndRecorder(await bench.open(bench.request(subject=name))) for name in ("alice", "bob")
    ]
    assert bench.reload(WEB_POLICY.replace('"*"]', '"bob"]', 1)) == 1
    assert alice.reasons == [EndReason.REVOKED]
    assert bob.reasons == []
    assert (await bench.denied()).reason is DenyReason.POLICY
    assert bench.audit.of("reload")[0]["ended"] == 1


async def test_a_reload_goes_by_the_addresses_that_were_admitted(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    here, there = await bench.open(), await bench.open()
    bench.gate.admit_address(here, PUBLIC, 443)
    bench.gate.admit_address(there, ip_address("8.8.8.8"), 443)
    deny = WEB_POLICY.replace("web", "no").replace("allow", "deny").replace("*:443", "8.8.8.8:*")
    assert bench.reload(deny + WEB_POLICY) == 1
    assert here.ended is None
    assert there.ended is EndReason.REVOKED


async def test_running_tunnels_are_left_alone_when_asked(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    recorder = EndRecorder(await bench.open())
    assert bench.reload("", recheck_tunnels=False) == 0
    assert recorder.reasons == []


async def test_a_key_that_a_reload_removes_takes_its_tunnels_along(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    recorder = EndRecorder(await bench.open())
    (tmp_path / "signing.pub.pem").write_bytes(generate_signing_key().public_pem())
    assert bench.reload() == 1
    assert recorder.reasons == [EndReason.REVOKED]
    assert (await bench.denied()).reason is DenyReason.CREDENTIAL_INVALID


async def test_a_new_key_counts_from_the_reload_on(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    key = generate_signing_key()
    (tmp_path / "new.pub.pem").write_bytes(key.public_pem())
    assert bench.settings.bearer is not None
    (issuer,) = bench.settings.bearer.issuers
    files = (*issuer.key_files, tmp_path / "new.pub.pem")
    token = issue_token(
        key,
        subject="carol",
        audience=AUDIENCE,
        issuer=ISSUER,
        lifetime_s=60,
        now_s=bench.clock.wall_s(),
    )
    request = bench.request(credentials=(BearerToken(token=token),))
    assert (await bench.denied(request)).reason is DenyReason.CREDENTIAL_INVALID
    bench.reload(bearer=replace(bench.settings.bearer, issuers=(replace(issuer, key_files=files),)))
    await bench.open(request)


async def test_a_reload_changes_the_limits_of_the_gate(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, limits=GateLimits(tunnels_per_subject=1))
    await bench.open()
    await bench.denied()
    bench.reload(limits=GateLimits(tunnels_per_subject=2))
    await bench.open()


async def test_draining_refuses_new_tunnels_and_leaves_the_running_ones(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    recorder = EndRecorder(await bench.open())
    bench.gate.drain()
    assert bench.gate.draining
    assert (await bench.denied()).retry_after_s
    assert recorder.reasons == []
    assert bench.gate.end_all(EndReason.DRAINED) == 1
    assert bench.gate.tunnel_count == 0


async def test_a_target_name_is_compared_in_lower_case_without_the_last_dot(
    tmp_path: Path,
) -> None:
    bench = GateBench(tmp_path, policy=WEB_POLICY.replace("*:443", "example.org:443"))
    await bench.open(bench.request("EXAMPLE.org.:443"))


async def test_the_problems_of_a_broken_revocation_list_stop_the_start(tmp_path: Path) -> None:
    file = tmp_path / "revocations.json"
    file.write_text("{}")
    with pytest.raises(ConfigError, match="not a revocation list"):
        GateBench(tmp_path, change=lambda settings: replace(settings, revocations_file=file))


MESH_POLICY = """
[[rule]]
name = "mesh"
action = "allow"
who = ["*"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["bob"]

[[rule]]
name = "web"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["*:443"]
"""


async def test_peers_call_those_whom_the_policy_names(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=MESH_POLICY)
    alice, bob = [
        await bench.open(bench.request(None, subject=subject, method=Method.GHOSTWIRE))
        for subject in ("alice", "bob")
    ]
    assert bench.gate.admit_peer(alice, bob) is None
    denial = bench.gate.admit_peer(bob, alice)
    assert denial is not None
    assert denial.reason is DenyReason.POLICY
    bench.reload(MESH_POLICY.replace('peers = ["bob"]', 'peers = ["carol"]'))
    assert bench.gate.admit_peer(alice, bob) is not None


async def test_peers_at_another_relay_are_judged_by_whose_key_it_is(tmp_path: Path) -> None:
    key, stranger = NodeKey(key=bytes(range(32))), NodeKey(key=bytes(32))
    nodes = tmp_path / "nodes.toml"
    nodes.write_text(f'[node.bob]\nkey = "{format_node_key(key.key)}"\n')
    bench = GateBench(
        tmp_path,
        policy=MESH_POLICY,
        change=lambda settings: replace(settings, node_keys=NodeKeySettings(file=nodes)),
    )
    alice = await bench.open(bench.request(None, subject="alice", method=Method.GHOSTWIRE))
    assert bench.gate.admit_distant_peer(alice, key) is None
    unknown = bench.gate.admit_distant_peer(alice, stranger)
    assert unknown is not None
    assert unknown.reason is DenyReason.CREDENTIAL_INVALID
    bench.reload(MESH_POLICY.replace('peers = ["bob"]', 'peers = ["carol"]'))
    forbidden = bench.gate.admit_distant_peer(alice, key)
    assert forbidden is not None
    assert forbidden.reason is DenyReason.POLICY
    bench.reload(MESH_POLICY)
    bench.gate.revoke(subject="bob", token_id=None)
    revoked = bench.gate.admit_distant_peer(alice, key)
    assert revoked is not None
    assert revoked.reason is DenyReason.REVOKED


async def test_bound_token_is_worth_nothing_without_the_proof(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=MESH_POLICY)
    key = bytes(range(32))
    credentials = (BearerToken(token=bench.token(peer_id=key)),)
    request = bench.request(credentials=credentials)

    denial = await bench.denied(request)
    assert (denial.reason, denial.detail) == (
        DenyReason.CREDENTIAL_INVALID,
        "the credential is bound to a key that was not proved",
    )
    for answer in (await bench.gate.describe(request), await bench.gate.recognize(request)):
        assert isinstance(answer, Denial)
        assert answer.reason is DenyReason.CREDENTIAL_INVALID
    await bench.denied(replace(request, proved_peer_id=bytes(32)))
    assert (await bench.open(replace(request, proved_peer_id=key))).peer_id == key
    mesh = bench.request(None, method=Method.GHOSTWIRE, credentials=credentials)
    assert (await bench.open(mesh)).peer_id == key
