"""The gate's packet filters: one per lease, changed in place by a reload."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from masque_relay.contract.ip_scope import IpScope
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.control.leases import RelayLease
from tests.support.gates import GateBench

POLICY = """
[[rule]]
name = "lab"
action = "allow"
who = ["alice"]
methods = ["connect-ip"]
targets = ["10.20.0.0/16:22", "*.corp.example:80"]
"""
LAB = int(ip_address("10.20.0.1"))


async def admit(bench: GateBench, scope: IpScope) -> RelayLease | Denial:
    request = replace(bench.request(None, method=Method.CONNECT_IP), ip_scope=scope)
    verdict = await bench.gate.admit(request)
    assert isinstance(verdict, RelayLease | Denial)
    return verdict


async def granted(bench: GateBench, scope: IpScope | None = None) -> RelayLease:
    verdict = await admit(bench, scope or IpScope())
    assert isinstance(verdict, RelayLease)
    return verdict


async def test_a_lease_has_one_filter_and_leaves_none_behind(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=POLICY)
    lease = await granted(bench)
    packets = bench.gate.packet_filter(lease)
    assert bench.gate.packet_filter(lease) is packets
    assert packets.admits(4, LAB, 6, 22)
    assert not packets.admits(4, LAB, 6, 23)
    lease.release(EndReason.PEER_CLOSED)
    assert not bench.gate._filters._filters


async def test_a_reload_changes_it_in_place(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=POLICY)
    packets = bench.gate.packet_filter(await granted(bench))
    changes: list[bool] = []
    packets.on_change(lambda: changes.append(packets.admits(4, LAB, 6, 23)))
    bench.policy_file.write_text(POLICY.replace(":22", ":23"))
    assert bench.gate.reload(bench.settings) == 0
    assert changes == [True]
    assert not packets.admits(4, LAB, 6, 22)


async def test_a_reload_that_refuses_the_scope_ends_the_tunnel(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=POLICY)
    lease = await granted(bench, IpScope(target=ip_network("10.20.3.0/24")))
    bench.policy_file.write_text(POLICY.replace("10.20.0.0/16", "10.21.0.0/16"))
    assert bench.gate.reload(bench.settings) == 1
    assert lease.ended is EndReason.REVOKED


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (IpScope(), None),
        (IpScope(target=ip_network("10.20.0.0/24")), None),
        (IpScope(target=ip_network("10.0.0.0/8")), None),
        (IpScope(target="www.corp.example"), None),
        (IpScope(target=ip_network("10.21.0.0/16")), DenyReason.POLICY),
        (IpScope(target=ip_network("9.9.9.9/32")), DenyReason.POLICY),
    ],
)
async def test_a_scope_is_admitted_where_a_part_of_it_could_be_allowed(
    tmp_path: Path, scope: IpScope, reason: DenyReason | None
) -> None:
    verdict = await admit(GateBench(tmp_path, policy=POLICY), scope)
    assert (verdict.reason if isinstance(verdict, Denial) else None) is reason


async def test_each_address_of_a_name_is_decided(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=POLICY)
    lease = await granted(bench, IpScope(target="www.corp.example"))
    ask = bench.gate.admit_address
    assert ask(lease, ip_address("9.9.9.9"), 0) is None
    assert ask(lease, ip_address("10.20.0.1"), 0) is None
    denial = ask(lease, ip_address("10.21.0.1"), 0)
    assert denial is not None
    assert denial.reason is DenyReason.ADDRESS_PROHIBITED
    assert ask(lease, ip_address("9.9.9.9"), 80) is None
    assert ask(lease, ip_address("9.9.9.9"), 81) is not None
    assert bench.gate.packet_filter(lease).admits(4, int(ip_address("9.9.9.9")), 6, 80)


async def test_records_and_snapshots_name_the_scope(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=POLICY)
    await granted(bench, IpScope(target=ip_network("10.20.0.0/24"), ip_protocol=6))
    (snapshot,) = bench.gate.snapshots()
    assert snapshot.target == "10.20.0.0/24 proto 6"
    assert bench.audit.of("decision")[0]["target"] == "10.20.0.0/24 proto 6"


async def test_only_leases_of_this_gate_have_filters(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        GateBench(tmp_path).gate.packet_filter(object())  # type: ignore[arg-type]  # the point
