"""The CONNECT-UDP endpoint (RFC 9298) over fakes below every seam."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.codes import H3Error
from masque_relay.http.connect_udp import ConnectUdpServices, connect_udp_kind
from masque_relay.http.limits import HttpLimits
from masque_relay.http.routes import build_app
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from tests.support.http_fakes import (
    CONNECT_UDP_HEAD,
    FakeClock,
    FakeDataplane,
    FakeGate,
    head_with,
    settle,
)
from tests.support.http_rig import Rig, serving

PROHIBITED = Denial(reason=DenyReason.ADDRESS_PROHIBITED, detail="metadata service")
NAME_HEAD = head_with(CONNECT_UDP_HEAD, path=b"/.well-known/masque/udp/example.org/443/")


class Relay:
    """The application over a recording connection."""

    def __init__(self, rig: Rig, gate: FakeGate, dataplane: FakeDataplane) -> None:
        self.rig = rig
        self.gate = gate
        self.dataplane = dataplane

    @property
    def status(self) -> int | None:
        return self.rig.transport.status(0)

    @property
    def proxy_status(self) -> str:
        return self.rig.transport.fields(0)[b"proxy-status"].decode()

    @property
    def released(self) -> list[tuple[EndReason, str]]:
        return self.gate.leases[0].released


@asynccontextmanager
async def relaying(limits: HttpLimits | None = None) -> AsyncGenerator[Relay]:
    gate, dataplane = FakeGate(), FakeDataplane()
    services = ConnectUdpServices(
        gate=gate,
        dataplane=dataplane,
        clock=FakeClock(),
        counters=TunnelCounters(),
        limits=limits or HttpLimits(),
        proxy_name="ghostwire",
    )
    app = build_app([connect_udp_kind(services)], gate=gate, proxy_name="ghostwire")
    async with serving(app, limits) as rig:
        yield Relay(rig, gate, dataplane)


class TestSuccess:
    async def test_answer_names_the_next_hop_and_the_capsule_protocol(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()

            assert relay.status == 200
            assert relay.rig.transport.fields(0) == {
                b":status": b"200",
                b"capsule-protocol": b"?1",
                b"proxy-status": b'ghostwire; next-hop="192.0.2.7:53"',
            }
            assert relay.gate.addresses == [(ip_address("192.0.2.7"), 53)]

    async def test_datagrams_flow_both_ways_and_the_early_ones_too(self) -> None:
        async with relaying() as relay:
            relay.rig.peer.datagrams_received(0, [b"\0early"])
            await relay.rig.open_tunnel()
            relay.rig.peer.datagrams_received(0, [b"\0later"])
            (flow,) = relay.dataplane.flows
            flow.sink.on_batch([b"answer"])

            assert flow.sent == [b"early", b"later"]
            assert relay.rig.transport.datagrams == [(0, b"\0answer")]

    async def test_name_is_resolved_and_every_address_shown_to_the_gate(self) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = ("2001:db8::1", "192.0.2.8", "10.0.0.1")
            relay.gate.prohibited[ip_address("2001:db8::1")] = PROHIBITED
            relay.gate.prohibited[ip_address("10.0.0.1")] = PROHIBITED
            await relay.rig.open_tunnel(headers=NAME_HEAD)

            assert [str(address) for address, _ in relay.gate.addresses] == [
                "2001:db8::1",
                "192.0.2.8",
                "10.0.0.1",
            ]
            assert [str(flow.peer) for flow in relay.dataplane.flows] == ["192.0.2.8:443"]

    async def test_address_without_a_route_is_passed_over(self) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = ("2001:db8::1", "192.0.2.8")
            relay.dataplane.unroutable[ip_address("2001:db8::1")] = FlowError(
                FlowFault.DESTINATION_IP_UNROUTABLE, "no IPv6 here"
            )
            await relay.rig.open_tunnel(headers=NAME_HEAD)

            assert 'next-hop="192.0.2.8:443"' in relay.proxy_status

    @pytest.mark.clause("RFC 9298", "3.1", "MUST", "resolve a DNS name before the answer")
    async def test_nothing_is_answered_before_the_name_is_resolved(self) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = ("192.0.2.8",)
            relay.dataplane.may_resolve.clear()
            await relay.rig.open_tunnel(headers=NAME_HEAD)
            assert relay.status is None

            relay.dataplane.may_resolve.set()
            await settle()

            assert relay.status == 200


class TestRefusals:
    async def test_prohibited_address_is_refused_and_no_socket_opened(self) -> None:
        async with relaying() as relay:
            relay.gate.prohibited[ip_address("192.0.2.7")] = PROHIBITED
            await relay.rig.open_tunnel()

            assert relay.status == 403
            assert "error=destination_ip_prohibited" in relay.proxy_status
            assert not relay.dataplane.flows
            assert relay.released == [(EndReason.DENIED, "metadata service")]

    @pytest.mark.parametrize(
        ("fault", "status"), [(FlowFault.DNS_ERROR, 502), (FlowFault.DNS_TIMEOUT, 504)]
    )
    async def test_name_that_does_not_resolve(self, fault: FlowFault, status: int) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = FlowError(fault, "down", rcode="NXDOMAIN")
            await relay.rig.open_tunnel(headers=NAME_HEAD)

            assert relay.status == status
            assert f"error={fault}" in relay.proxy_status
            assert ('rcode="NXDOMAIN"' in relay.proxy_status) is (fault is FlowFault.DNS_ERROR)
            assert relay.released[0][0] is EndReason.TARGET_FAILED

    async def test_name_without_an_address_is_a_dns_error(self) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = ()
            await relay.rig.open_tunnel(headers=NAME_HEAD)

            assert relay.status == 502

    async def test_target_without_any_route(self) -> None:
        async with relaying() as relay:
            relay.dataplane.unroutable[ip_address("192.0.2.7")] = FlowError(
                FlowFault.DESTINATION_IP_UNROUTABLE, "no route"
            )
            await relay.rig.open_tunnel()

            assert relay.status == 502
            assert relay.released[0][0] is EndReason.TARGET_FAILED

    async def test_lease_that_ends_while_the_name_is_resolved_opens_nothing(self) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = ("192.0.2.8",)
            relay.dataplane.may_resolve.clear()
            await relay.rig.open_tunnel(headers=NAME_HEAD)
            relay.gate.leases[0].end(EndReason.REVOKED)
            relay.dataplane.may_resolve.set()
            await settle()

            assert relay.status == 403
            assert not relay.dataplane.flows
            assert relay.released == [(EndReason.REVOKED, "")]


class TestEnds:
    @pytest.mark.parametrize("reason", [EndReason.REVOKED, EndReason.KICKED, EndReason.BYTE_QUOTA])
    async def test_lease_that_ends_resets_the_stream(self, reason: EndReason) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            relay.gate.leases[0].end(reason)
            await settle()

            assert relay.rig.transport.resets == {0: 0x10C}
            assert relay.dataplane.flows[0].is_closed
            assert relay.released == [(reason, "")]

    async def test_lifetime_finishes_the_stream_cleanly(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            relay.gate.leases[0].end(EndReason.LIFETIME)
            await settle()

            assert 0 in relay.rig.transport.finished
            assert not relay.rig.transport.resets
            assert relay.released == [(EndReason.LIFETIME, "")]

    async def test_bug_on_what_the_target_sends_ends_that_tunnel_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(session: ConnectUdpSession, payloads: Sequence[bytes]) -> None:
            raise ZeroDivisionError(payloads)

        async with relaying() as relay:
            await relay.rig.open_tunnel()
            await relay.rig.open_tunnel(stream_id=4)
            first, second = relay.dataplane.flows
            with monkeypatch.context() as bug:
                bug.setattr(ConnectUdpSession, "on_batch", broken)
                first.sink.on_batch([b"x"])
            await settle()

            assert relay.rig.transport.resets == {0: H3Error.INTERNAL_ERROR}
            assert relay.released == [(EndReason.BUG, "")]
            assert first.is_closed
            second.sink.on_batch([b"y"])
            assert relay.rig.transport.datagrams == [(4, b"\0y")]

    async def test_client_that_ends_its_stream(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            relay.rig.peer.data_received(0, b"", end_stream=True)
            await settle()

            assert relay.released == [(EndReason.PEER_CLOSED, "")]
            assert relay.dataplane.flows[0].is_closed
            assert 0 in relay.rig.transport.finished

    @pytest.mark.clause("RFC 8441", "5", "MUST", "end the tunnel with its stream")
    async def test_client_that_resets(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            relay.rig.peer.stream_reset_received(0, 0x10C)
            await settle()

            assert relay.released == [(EndReason.PEER_RESET, "")]

    async def test_client_that_leaves_while_the_name_is_resolved(self) -> None:
        async with relaying() as relay:
            relay.dataplane.names["example.org"] = ("192.0.2.8",)
            relay.dataplane.may_resolve.clear()
            await relay.rig.open_tunnel(headers=NAME_HEAD)
            relay.rig.peer.stream_reset_received(0, 0x10C)
            relay.dataplane.may_resolve.set()
            await settle()

            assert relay.released[0][0] is EndReason.PEER_RESET
            assert all(flow.is_closed for flow in relay.dataplane.flows)
            assert relay.rig.counters.application_errors == 0

    async def test_lost_connection(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            relay.rig.peer.connection_lost(0x100, "")
            await settle()

            assert relay.released == [(EndReason.CONNECTION_LOST, "")]

    @pytest.mark.clause(
        "RFC 9298", "3.1", "MUST", "close the request stream together with the socket"
    )
    async def test_idle_tunnel(self) -> None:
        async with relaying() as relay:
            relay.gate.limits = TunnelLimits(idle_timeout_s=100)
            await relay.rig.open_tunnel()
            relay.rig.pass_idle_time(101)
            await settle()

            assert relay.released == [(EndReason.IDLE, "")]
            assert 0 in relay.rig.transport.finished

    async def test_protocol_error_of_the_client(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            relay.rig.peer.datagrams_received(0, [b"\0" + bytes(65_528)])
            await settle()

            assert relay.rig.transport.resets == {0: 0x10E}
            assert relay.released == [(EndReason.PROTOCOL_ERROR, "")]

    async def test_record_says_what_an_operator_wants_to_know(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            sink = relay.dataplane.flows[0].sink
            sink.on_flow_error(FlowError(FlowFault.CONNECTION_REFUSED, "port unreachable"))
            sink.on_batch([bytes(5_000)])
            relay.rig.peer.data_received(0, b"", end_stream=True)
            await settle()

            ((reason, detail),) = relay.released
            assert reason is EndReason.PEER_CLOSED
            assert "connection_refused" in detail
            assert "1 datagrams from the target were too large" in detail

    async def test_shut_down_releases_every_lease(self) -> None:
        async with relaying() as relay:
            await relay.rig.open_tunnel()
            gate = relay.gate
        assert gate.leases[0].released == [(EndReason.DRAINED, "")]
