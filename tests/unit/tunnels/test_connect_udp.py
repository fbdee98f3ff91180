"""The CONNECT-UDP session (RFC 9298 section 5), without I/O."""

from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from tests.support.http_fakes import FakeFlow, FakeMeter, RecordingCarrier


class Tunnel:
    """A session between a recording carrier and a recording flow."""

    def __init__(
        self,
        *,
        uplink: FakeMeter | None = None,
        downlink: FakeMeter | None = None,
        max_payload_bytes: int = 1_200,
        context_id: int = 0,
    ) -> None:
        self.counters = TunnelCounters()
        self.uplink = uplink or FakeMeter()
        self.downlink = downlink or FakeMeter()
        self.session = ConnectUdpSession(
            uplink=self.uplink,
            downlink=self.downlink,
            counters=self.counters,
            context_id=context_id,
        )
        self.flow = FakeFlow(Endpoint(address=ip_address("192.0.2.7"), port=53), self.session)
        self.session.bind_flow(self.flow)
        self.carrier = RecordingCarrier(max_payload_bytes)
        self.session.attach(self.carrier)


class TestUplink:
    def test_context_zero_goes_to_the_target_in_one_batch(self) -> None:
        tunnel = Tunnel()

        tunnel.session.on_datagrams([b"\0one", b"\0", b"\0three"])

        assert tunnel.flow.sent == [b"one", b"", b"three"]
        assert tunnel.flow.batches == [3]
        assert (tunnel.counters.uplink_datagrams, tunnel.counters.uplink_bytes) == (3, 8)

    @pytest.mark.clause(
        "RFC 9298", "5", "MUST", "drop or buffer datagrams of unknown contexts silently"
    )
    def test_unknown_context_is_dropped_and_its_neighbours_pass(self) -> None:
        tunnel = Tunnel()

        tunnel.session.on_datagrams([b"\x02secret", b"\0good", b"", b"\x40"])

        assert tunnel.flow.sent == [b"good"]
        assert tunnel.counters.unknown_context_dropped == 3
        assert tunnel.session.end_reason is None

    @pytest.mark.clause("RFC 9298", "4", "MUST", "read the context ID as a variable-length integer")
    def test_longer_spelling_of_context_zero_is_accepted(self) -> None:
        tunnel = Tunnel()

        tunnel.session.on_datagrams([b"\x40\x00long", b"\x80\0\0\0longer"])

        assert tunnel.flow.sent == [b"long", b"longer"]

    def test_another_context_can_be_chosen(self) -> None:
        tunnel = Tunnel(context_id=70)

        tunnel.session.on_datagrams([b"\x40\x46up", b"\0no"])
        tunnel.session.on_batch([b"down"])

        assert tunnel.flow.sent == [b"up"]
        assert tunnel.carrier.datagrams == [b"\x40\x46down"]

    def test_rate_drops_single_datagrams_not_the_batch(self) -> None:
        tunnel = Tunnel(uplink=FakeMeter(budget_bytes=6))

        tunnel.session.on_datagrams([b"\0aaa", b"\0bbbb", b"\0ccc"])

        assert tunnel.flow.sent == [b"aaa", b"ccc"]
        assert tunnel.counters.rate_dropped == 1
        assert tunnel.uplink.dropped_count == 1
        assert (tunnel.counters.uplink_datagrams, tunnel.counters.uplink_bytes) == (2, 6)

    @pytest.mark.clause(
        "RFC 9298", "5", "MUST", "abort the stream over a payload beyond 65527 bytes"
    )
    @pytest.mark.parametrize(("size", "fits"), [(65_527, True), (65_528, False)])
    def test_payload_longer_than_udp_carries_aborts_the_stream(
        self, size: int, *, fits: bool
    ) -> None:
        tunnel = Tunnel()

        tunnel.session.on_datagrams([b"\0" + bytes(size)])

        assert bool(tunnel.flow.sent) is fits
        assert tunnel.carrier.aborted == ([] if fits else [EndReason.PROTOCOL_ERROR])
        assert tunnel.counters.oversize_uplink_dropped == (0 if fits else 1)
        assert tunnel.flow.is_closed is not fits

    def test_many_large_payloads_together_do_not_abort(self) -> None:
        tunnel = Tunnel()

        tunnel.session.on_datagrams([b"\0" + bytes(1_200)] * 64)

        assert len(tunnel.flow.sent) == 64
        assert not tunnel.carrier.aborted

    def test_capsules_of_other_types_are_skipped(self) -> None:
        tunnel = Tunnel()

        tunnel.session.on_capsule(0x29, b"grease")

        assert tunnel.session.end_reason is None


class TestDownlink:
    @pytest.mark.clause("RFC 9298", "4", "MUST", "use context ID 0 for UDP payloads")
    def test_payloads_get_context_zero(self) -> None:
        tunnel = Tunnel()

        tunnel.session.on_batch([b"one", b"two"])

        assert tunnel.carrier.datagrams == [b"\0one", b"\0two"]
        assert (tunnel.counters.downlink_datagrams, tunnel.counters.downlink_bytes) == (2, 6)

    def test_oversize_is_dropped_and_the_others_pass(self) -> None:
        tunnel = Tunnel(max_payload_bytes=101)

        tunnel.session.on_batch([bytes(100), bytes(101), b"small"])

        assert [len(datagram) for datagram in tunnel.carrier.datagrams] == [101, 6]
        assert tunnel.counters.oversize_downlink_dropped == 1
        assert tunnel.session.oversize_downlink_count == 1
        assert tunnel.session.end_reason is None

    def test_nothing_but_oversize_asks_no_meter(self) -> None:
        tunnel = Tunnel(max_payload_bytes=10)

        tunnel.session.on_batch([bytes(10)])

        assert tunnel.downlink.take_calls == 0

    def test_rate_drops_single_datagrams(self) -> None:
        tunnel = Tunnel(downlink=FakeMeter(budget_bytes=6))

        tunnel.session.on_batch([b"aaa", b"bbbb", b"ccc"])

        assert tunnel.carrier.datagrams == [b"\0aaa", b"\0ccc"]
        assert tunnel.counters.rate_dropped == 1

    def test_what_comes_before_the_carrier_is_dropped(self) -> None:
        session = ConnectUdpSession(
            uplink=FakeMeter(), downlink=FakeMeter(), counters=TunnelCounters()
        )

        session.on_batch([b"early"])
        carrier = RecordingCarrier()
        session.attach(carrier)

        assert not carrier.datagrams

    def test_icmp_errors_are_counted_and_end_nothing(self) -> None:
        tunnel = Tunnel()
        error = FlowError(FlowFault.CONNECTION_REFUSED, "port unreachable")

        tunnel.session.on_flow_error(error)
        tunnel.session.on_batch([b"back again"])

        assert tunnel.session.flow_error_count == 1
        assert tunnel.session.last_flow_error is error
        assert tunnel.carrier.datagrams == [b"\0back again"]


class TestNextAddress:
    """RFC 8305 for a protocol without a handshake."""

    REFUSED = FlowError(FlowFault.CONNECTION_REFUSED, "port unreachable")

    def two_addresses(self) -> tuple[Tunnel, FakeFlow]:
        tunnel = Tunnel()
        second = FakeFlow(Endpoint(address=ip_address("192.0.2.8"), port=53), tunnel.session)
        spares = [second]
        tunnel.session.bind_flow(tunnel.flow, spare_flow=lambda: spares.pop() if spares else None)
        return tunnel, second

    def test_a_refusal_before_any_answer_leads_on_with_what_was_asked(self) -> None:
        tunnel, second = self.two_addresses()
        tunnel.session.on_datagrams([b"\0question"])
        tunnel.session.on_flow_error(self.REFUSED)
        assert tunnel.flow.is_closed
        assert second.sent == [b"question"]
        tunnel.session.on_datagrams([b"\0more"])
        assert second.sent == [b"question", b"more"]
        tunnel.session.on_batch([b"answer"])
        assert tunnel.carrier.datagrams == [b"\0answer"]

    def test_an_address_that_has_answered_stays(self) -> None:
        tunnel, second = self.two_addresses()
        tunnel.session.on_datagrams([b"\0question"])
        tunnel.session.on_batch([b"answer"])
        tunnel.session.on_flow_error(self.REFUSED)
        assert not tunnel.flow.is_closed
        assert second.sent == []

    def test_the_last_address_stays_whatever_it_refuses(self) -> None:
        tunnel, second = self.two_addresses()
        tunnel.session.on_flow_error(self.REFUSED)
        tunnel.session.on_flow_error(self.REFUSED)
        assert not second.is_closed
        tunnel.session.on_datagrams([b"\0again"])
        assert second.sent == [b"again"]

    def test_another_error_leads_nowhere_else(self) -> None:
        tunnel, _ = self.two_addresses()
        tunnel.session.on_flow_error(FlowError(FlowFault.DESTINATION_UNAVAILABLE, "no route now"))
        assert not tunnel.flow.is_closed

    def test_the_tunnel_ends_with_the_flow_that_it_has_by_then(self) -> None:
        tunnel, second = self.two_addresses()
        tunnel.session.on_flow_error(self.REFUSED)
        tunnel.session.ended(EndReason.PEER_CLOSED)
        assert second.is_closed


class TestEnd:
    @pytest.mark.parametrize("reason", list(EndReason))
    def test_closing_ends_stream_and_flow_once(self, reason: EndReason) -> None:
        tunnel = Tunnel()

        tunnel.session.close(reason)
        tunnel.session.close(EndReason.BUG)

        clean = reason in {
            EndReason.PEER_CLOSED,
            EndReason.IDLE,
            EndReason.LIFETIME,
            EndReason.DRAINED,
        }
        assert tunnel.carrier.is_finished is clean
        assert tunnel.carrier.aborted == ([] if clean else [reason])
        assert tunnel.flow.is_closed
        assert tunnel.session.end_reason is reason

    def test_nothing_moves_after_the_end(self) -> None:
        tunnel = Tunnel()
        tunnel.session.ended(EndReason.PEER_RESET)

        tunnel.session.on_datagrams([b"\0late"])
        tunnel.session.on_batch([b"late"])

        assert not tunnel.flow.sent
        assert not tunnel.carrier.datagrams
        assert tunnel.flow.is_closed

    def test_session_closed_before_its_carrier_ends_the_stream_on_attach(self) -> None:
        session = ConnectUdpSession(
            uplink=FakeMeter(), downlink=FakeMeter(), counters=TunnelCounters()
        )
        session.close(EndReason.REVOKED)
        carrier = RecordingCarrier()
        flow = FakeFlow(Endpoint(address=ip_address("192.0.2.7"), port=53), session)

        session.bind_flow(flow)
        session.attach(carrier)

        assert carrier.aborted == [EndReason.REVOKED]
        assert flow.is_closed

    def test_quota_that_ends_the_lease_in_mid_batch_sends_nothing(self) -> None:
        tunnel = Tunnel()

        def exhausted(datagram_count: int, byte_count: int) -> bool:
            tunnel.session.close(EndReason.BYTE_QUOTA)
            return True

        tunnel.uplink.take = exhausted  # type: ignore[method-assign]  # the gate ends it inside take
        tunnel.session.on_datagrams([b"\0one too many"])

        assert not tunnel.flow.sent
        assert tunnel.carrier.aborted == [EndReason.BYTE_QUOTA]
