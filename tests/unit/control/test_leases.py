"""Leases end when they should, give everything back, and only the gate makes one."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.verdict import DenyReason, EndReason
from masque_relay.control.leases import RelayLease, tightest
from masque_relay.control.settings import GateLimits
from tests.support.gates import WEB_POLICY, EndRecorder, GateBench

PUBLIC = ip_address("1.1.1.1")
OTHER = ip_address("2606:4700::1")


def with_limits(text: str) -> str:
    return f"{WEB_POLICY}[rule.limits]\n{text}\n"


TWO_FAMILIES = """
[[rule]]
name = "v4"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["0.0.0.0/0:443"]
limits = { rate_bytes_per_s = 1000, lifetime_s = 100, tunnels = 1 }
[[rule]]
name = "v6"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["[::/0]:443"]
limits = { rate_bytes_per_s = 2000, max_bytes = 5000, idle_timeout_s = 60 }
"""


def test_nobody_but_the_gate_makes_a_lease() -> None:
    with pytest.raises(TypeError, match="only the gate"):
        RelayLease(None, None, request=None, principal=None, opened_s=0, expires_s=None, clock=None)  # type: ignore[arg-type]  # it must fail first


async def test_a_released_lease_frees_its_place_and_writes_one_record(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, limits=GateLimits(tunnels_per_subject=1))
    lease = await bench.open()
    assert (await bench.denied()).reason is DenyReason.TUNNEL_QUOTA
    lease.uplink.take(3, 300)
    lease.downlink.take(2, 200)
    bench.clock.advance(1.5)
    lease.release(EndReason.PEER_CLOSED, detail="bye")
    lease.release(EndReason.BUG)
    (record,) = bench.audit.of("tunnel_end")
    assert (record["reason"], record["detail"], record["age_s"]) == ("peer_closed", "bye", 1.5)
    assert (record["uplink_bytes"], record["downlink_datagrams"]) == (300, 2)
    assert bench.gate.tunnel_ends == {("h3", "peer_closed"): 1}
    await bench.open()


async def test_the_control_planes_reason_wins_over_the_holders(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    lease = await bench.open()
    recorder = EndRecorder(lease)
    assert bench.gate.kick(lease.lease_id)
    assert recorder.reasons == [EndReason.KICKED]
    assert bench.audit.of("tunnel_end")[0]["reason"] == "kicked"
    assert not bench.gate.kick(lease.lease_id)


async def test_a_callback_that_comes_late_runs_at_once_and_only_once(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    lease = await bench.open()
    bench.gate.kick(lease.lease_id)
    reasons: list[EndReason] = []
    lease.on_end(reasons.append)
    assert not lease.end(EndReason.REVOKED)
    assert reasons == [EndReason.KICKED]


async def test_a_callback_that_raises_does_not_keep_the_others_alive(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    first, second = await bench.open(), await bench.open()

    def broken(reason: EndReason) -> None:
        raise RuntimeError(reason)

    first.on_end(broken)
    recorder = EndRecorder(second)
    assert bench.gate.end_all(EndReason.DRAINED) == 2
    assert recorder.reasons == [EndReason.DRAINED]


async def test_a_lifetime_ends_a_tunnel(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=with_limits("lifetime_s = 60"))
    recorder = EndRecorder(await bench.open())
    bench.clock.advance(59)
    bench.gate.tick()
    assert recorder.reasons == []
    bench.clock.advance(1)
    bench.gate.tick()
    assert recorder.reasons == [EndReason.LIFETIME]
    assert bench.audit.of("tunnel_end")[0]["detail"] == "the rule's lifetime is over"


async def test_no_lease_outlives_its_credential(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=with_limits("lifetime_s = 7200"))
    recorder = EndRecorder(await bench.open())
    bench.clock.advance(3599)
    bench.gate.tick()
    assert recorder.reasons == []
    bench.clock.advance(1)
    bench.gate.tick()
    assert recorder.reasons == [EndReason.LIFETIME]
    assert bench.audit.of("tunnel_end")[0]["detail"] == "the credential has expired"


async def test_a_byte_quota_ends_a_tunnel_and_lets_no_byte_more_pass(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=with_limits("max_bytes = 1000"))
    lease = await bench.open()
    recorder = EndRecorder(lease)
    assert lease.uplink.take(1, 1000)
    bench.gate.tick()
    assert recorder.reasons == []
    assert not lease.downlink.take(1, 1)
    bench.gate.tick()
    assert recorder.reasons == [EndReason.BYTE_QUOTA]


async def test_the_bytes_of_a_day_count_over_all_tunnels_of_a_subject(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=with_limits("bytes_per_subject_per_day = 1000"))
    first, second = await bench.open(), await bench.open()
    recorders = [EndRecorder(first), EndRecorder(second)]
    first.uplink.take(1, 600)
    second.downlink.take(1, 399)
    bench.gate.tick()
    bench.gate.tick()
    assert [recorder.reasons for recorder in recorders] == [[], []]
    second.uplink.take(1, 1)
    bench.gate.tick()
    bench.gate.tick()
    assert [recorder.reasons for recorder in recorders] == [[EndReason.BYTE_QUOTA]] * 2
    assert (await bench.denied()).reason is DenyReason.BYTE_QUOTA
    bench.clock.advance(2 * 3600)
    await bench.open()


async def test_the_first_admitted_address_binds_the_lease_to_its_rule(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=TWO_FAMILIES)
    lease = await bench.open()
    assert lease.rule == "v4"
    assert bench.gate.admit_address(lease, OTHER, 443) is None
    assert lease.rule == "v6"
    assert lease.limits.rate_bytes_per_s == 2000
    bench.clock.advance(100)
    bench.gate.tick()
    assert lease.ended is None, "the lifetime of a rule that it is no longer under"
    await bench.open()  # and the only place under that rule is free again


async def test_a_second_address_under_another_rule_tightens_the_limits(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=TWO_FAMILIES)
    lease = await bench.open()
    assert bench.gate.admit_address(lease, PUBLIC, 443) is None
    meters = lease.uplink, lease.downlink
    assert bench.gate.admit_address(lease, OTHER, 443) is None
    assert lease.rule == "v4"
    assert lease.limits == TunnelLimits(
        rate_bytes_per_s=1000, lifetime_s=100, max_bytes=5000, idle_timeout_s=60
    )
    assert (lease.uplink, lease.downlink) == meters
    assert not lease.uplink.take(1, 5001)
    lease.release(EndReason.PEER_CLOSED)
    assert not bench.gate._book._counts


async def test_an_address_whose_rule_is_full_is_refused(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=TWO_FAMILIES)
    first = await bench.open()
    assert bench.gate.admit_address(first, OTHER, 443) is None
    second = await bench.open()
    assert bench.gate.admit_address(second, PUBLIC, 443) is None
    denial = bench.gate.admit_address(first, PUBLIC, 443)
    assert denial is not None
    assert (denial.reason, denial.rule) == (DenyReason.TUNNEL_QUOTA, "v4")
    assert first.rule == "v6"


async def test_asking_twice_about_an_address_changes_nothing(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=TWO_FAMILIES)
    lease = await bench.open()
    for _ in range(3):
        assert bench.gate.admit_address(lease, PUBLIC, 443) is None
    assert lease.addresses == (PUBLIC,)
    lease.release(EndReason.PEER_CLOSED)
    assert not bench.gate._book._counts


async def test_a_lease_does_not_keep_the_credential(tmp_path: Path) -> None:
    lease = await GateBench(tmp_path).open()
    assert lease.request.credentials == ()


async def test_deadlines_of_finished_tunnels_do_not_pile_up(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, limits=GateLimits(opens_per_s=1e9, open_burst=10**9))
    request = bench.request()
    for _ in range(3000):
        (await bench.open(request)).release(EndReason.PEER_CLOSED)
    bench.gate.tick()
    assert len(bench.gate._leases._deadlines) == 0


async def test_a_snapshot_shows_what_a_tunnel_did(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    lease = await bench.open()
    lease.uplink.take(2, 200)
    lease.downlink.drop(1)
    bench.clock.advance(2)
    (snapshot,) = bench.gate.snapshots()
    assert (snapshot.lease_id, snapshot.subject, snapshot.rule) == (lease.lease_id, "alice", "web")
    assert (snapshot.target, snapshot.age_s) == ("example.org:443", 2.0)
    assert (snapshot.uplink_datagrams, snapshot.uplink_bytes) == (2, 200)
    assert snapshot.dropped_datagrams == 1


def test_the_tightest_of_two_limits_keeps_within_both() -> None:
    one = TunnelLimits(rate_bytes_per_s=5, lifetime_s=3.0, idle_timeout_s=10)
    other = TunnelLimits(rate_bytes_per_s=4, max_bytes=7, idle_timeout_s=20)
    expected = TunnelLimits(rate_bytes_per_s=4, lifetime_s=3.0, max_bytes=7, idle_timeout_s=10)
    assert tightest(one, other) == tightest(other, one) == expected
