"""The TCP endpoint over fakes below every seam."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.codes import H3Error
from masque_relay.http.connect_tcp import ConnectTcpServices, connect_tcp_kinds
from masque_relay.http.limits import HttpLimits
from masque_relay.http.routes import build_app
from masque_relay.quic.application import Headers
from tests.support.http_fakes import (
    CONNECT_UDP_HEAD,
    FakeDataplane,
    FakeGate,
    FakeTcpFlow,
    head_with,
    settle,
)
from tests.support.http_rig import Rig, serving

CLASSIC: Headers = [(b":method", b"CONNECT"), (b":authority", b"192.0.2.7:80")]
TEMPLATED = head_with(
    CONNECT_UDP_HEAD, protocol=b"connect-tcp", path=b"/.well-known/masque/tcp/192.0.2.7/80/"
)
BOTH = pytest.mark.parametrize("head", [CLASSIC, TEMPLATED], ids=["classic", "templated"])
MISSING = Denial(reason=DenyReason.CREDENTIAL_MISSING, detail="none")


class Relay:
    """The application over a recording connection."""

    def __init__(self, rig: Rig, gate: FakeGate, dataplane: FakeDataplane) -> None:
        self.rig = rig
        self.gate = gate
        self.dataplane = dataplane

    @property
    def fields(self) -> dict[bytes, bytes]:
        return self.rig.transport.fields(0)

    @property
    def released(self) -> list[tuple[EndReason, str]]:
        return self.gate.leases[0].released

    async def open(self, head: Headers) -> FakeTcpFlow:
        await self.rig.open_tunnel(headers=head)
        assert self.rig.transport.status(0) == 200
        return self.dataplane.tcp_flows[0]


@asynccontextmanager
async def relaying(*, classic: bool = True) -> AsyncGenerator[Relay]:
    gate, dataplane, limits = FakeGate(), FakeDataplane(), HttpLimits()
    services = ConnectTcpServices(
        gate=gate,
        dataplane=dataplane,
        counters=TunnelCounters(),
        limits=limits,
        proxy_name="ghostwire",
    )
    kinds = connect_tcp_kinds(services, classic=classic)
    app = build_app(kinds, gate=gate, proxy_name="ghostwire")
    async with serving(app, limits) as rig:
        yield Relay(rig, gate, dataplane)


class TestSuccess:
    @BOTH
    async def test_gate_is_asked_for_tcp_to_the_target(self, head: Headers) -> None:
        async with relaying() as relay:
            flow = await relay.open(head)

            (request,) = relay.gate.requests
            assert request.method is Method.CONNECT_TCP
            assert str(request.target) == "192.0.2.7:80"
            assert relay.gate.addresses == [(ip_address("192.0.2.7"), 80)]
            assert str(flow.peer) == "192.0.2.7:80"
            assert flow.is_reading
            relay.rig.peer.stream_reset_received(0, 0)

    @BOTH
    @pytest.mark.clause("connect-tcp-18", "3", "SHOULD", "send proxy-status with success")
    async def test_answer_names_the_next_hop(self, head: Headers) -> None:
        async with relaying() as relay:
            await relay.open(head)
            assert relay.fields[b"proxy-status"] == b'ghostwire; next-hop="192.0.2.7:80"'
            assert (b"capsule-protocol" in relay.fields) is (head is TEMPLATED)
            relay.rig.peer.stream_reset_received(0, 0)

    async def test_ipv6_target_of_classic_connect(self) -> None:
        async with relaying() as relay:
            flow = await relay.open(head_with(CLASSIC, authority=b"[2001:db8::7]:443"))
            assert str(flow.peer) == "[2001:db8::7]:443"
            relay.rig.peer.stream_reset_received(0, 0)

    @pytest.mark.clause("connect-tcp-18", "3", "SHOULD", "race addresses by Happy Eyeballs")
    async def test_all_admitted_addresses_are_raced(self) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = ("2001:db8::7", "10.0.0.1", "192.0.2.7")
            relay.gate.prohibited[ip_address("10.0.0.1")] = Denial(
                reason=DenyReason.ADDRESS_PROHIBITED, detail="private"
            )
            await relay.open(head_with(CLASSIC, authority=b"example.org:80"))
            (attempt,) = relay.dataplane.tcp_attempts
            assert list(map(str, attempt)) == ["[2001:db8::7]:80", "192.0.2.7:80"]
            relay.rig.peer.stream_reset_received(0, 0)


class TestRefusal:
    @pytest.mark.parametrize(
        ("fault", "status"),
        [
            (FlowFault.CONNECTION_REFUSED, 502),
            (FlowFault.CONNECTION_TIMEOUT, 504),
            (FlowFault.DESTINATION_UNAVAILABLE, 502),
        ],
    )
    async def test_target_that_can_not_be_reached(self, fault: FlowFault, status: int) -> None:
        async with relaying() as relay:
            relay.dataplane.tcp_error = FlowError(fault, "no")
            await relay.rig.open_tunnel(headers=CLASSIC)
            assert relay.rig.transport.status(0) == status
            assert f"error={fault}".encode() in relay.fields[b"proxy-status"]
            assert relay.released[0][0] is EndReason.TARGET_FAILED

    async def test_classic_client_without_a_credential_hears_407(self) -> None:
        async with relaying() as relay:
            relay.gate.denial = MISSING
            await relay.rig.open_tunnel(headers=CLASSIC)
            assert relay.rig.transport.status(0) == 407
            assert b"proxy-authenticate" in relay.fields

    async def test_templated_client_hears_401_whatever_it_sent(self) -> None:
        async with relaying() as relay:
            relay.gate.denial = MISSING
            await relay.rig.open_tunnel(
                headers=[*TEMPLATED, (b"proxy-authorization", b"Bearer nonsense")]
            )
            assert relay.rig.transport.status(0) == 401
            assert b"www-authenticate" in relay.fields

    async def test_bad_target_of_classic_connect_is_400(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel(headers=head_with(CLASSIC, authority=b"127.1:80"))
            assert relay.rig.transport.status(0) in {400, None}
            assert not relay.gate.requests

    @pytest.mark.clause("connect-tcp-18", "5", "MAY", "answer a classic CONNECT with 426 or 501")
    async def test_classic_connect_can_be_turned_off(self) -> None:
        async with relaying(classic=False) as relay:
            await relay.rig.open_tunnel(headers=CLASSIC)
            assert relay.rig.transport.status(0) == 501
            assert b"{target_host}" in relay.rig.transport.data[0]
            assert not relay.gate.requests


class TestExpect:
    @BOTH
    async def test_100_comes_once_the_gate_has_admitted(self, head: Headers) -> None:
        async with relaying() as relay:
            await relay.open([*head, (b"expect", b"100-Continue")])
            statuses = [dict(sent)[b":status"] for sent in relay.rig.transport.headers[0]]
            assert statuses == [b"100", b"200"]
            relay.rig.peer.stream_reset_received(0, 0)

    async def test_refused_request_hears_no_100(self) -> None:
        async with relaying() as relay:
            relay.gate.denial = MISSING
            await relay.rig.open_tunnel(headers=[*CLASSIC, (b"expect", b"100-continue")])
            assert len(relay.rig.transport.headers[0]) == 1


class TestEnd:
    async def test_reason_reaches_the_lease(self) -> None:
        async with relaying() as relay:
            flow = await relay.open(CLASSIC)
            flow.sink.on_flow_lost(FlowError(FlowFault.CONNECTION_TERMINATED, "reset by peer"))
            await settle()
            assert relay.rig.transport.resets[0] == H3Error.CONNECT_ERROR
            ((reason, detail),) = relay.released
            assert reason is EndReason.TARGET_FAILED
            assert "reset by peer" in detail

    async def test_lease_that_ends_resets_both_sides(self) -> None:
        async with relaying() as relay:
            flow = await relay.open(TEMPLATED)
            relay.gate.leases[0].end(EndReason.REVOKED)
            await settle()
            assert flow.is_aborted
            assert relay.rig.transport.resets[0] == H3Error.REQUEST_CANCELLED
            assert relay.released[0][0] is EndReason.REVOKED

    async def test_client_that_resets_releases_the_lease(self) -> None:
        async with relaying() as relay:
            flow = await relay.open(CLASSIC)
            relay.rig.peer.stream_reset_received(0, H3Error.REQUEST_CANCELLED)
            await settle()
            assert flow.is_aborted
            assert relay.released[0][0] is EndReason.PEER_RESET
