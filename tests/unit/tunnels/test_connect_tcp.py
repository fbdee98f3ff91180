"""The TCP session, without I/O: bytes, ends, credit, pauses, rates."""

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.connect_tcp import (
    SEND_HIGH_WATER_BYTES,
    UPLINK_LOW_WATER_BYTES,
    ConnectTcpSession,
)
from masque_relay.wire.connect_tcp import CapsuleFraming, DataCapsuleTypes, RawFraming
from masque_relay.wire.errors import WireError
from tests.support.http_fakes import FakeMeter, FakeTcpFlow


class RecordingStreamCarrier:
    """A StreamCarrier that keeps what it is told."""

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.sent = bytearray()
        self.has_ended = False
        self.consumed = 0
        self.wakes = 0
        self.aborted: list[EndReason] = []
        self.is_finished = False

    def send(self, data: bytes) -> None:
        self.sent += data

    def end_sending(self) -> None:
        self.has_ended = True

    def consume(self, byte_count: int) -> None:
        self.consumed += byte_count

    def wake_later(self) -> None:
        self.wakes += 1

    def abort(self, reason: EndReason) -> None:
        self.aborted.append(reason)

    def finish(self) -> None:
        self.is_finished = True


class EndingMeter(FakeMeter):
    """A meter that does something when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.on_take: Callable[[], None] = lambda: None

    def take(self, datagram_count: int, byte_count: int) -> bool:
        self.on_take()
        return super().take(datagram_count, byte_count)


class Tunnel:
    """A session between a recording carrier and a recording flow."""

    def __init__(
        self,
        *,
        capsules: bool = False,
        uplink: FakeMeter | None = None,
        downlink: FakeMeter | None = None,
        attached: bool = True,
    ) -> None:
        self.counters = TunnelCounters()
        self.uplink = uplink or FakeMeter()
        self.downlink = downlink or FakeMeter()
        self.framing = CapsuleFraming(DataCapsuleTypes()) if capsules else RawFraming()
        self.session = ConnectTcpSession(
            framing=self.framing,
            uplink=self.uplink,
            downlink=self.downlink,
            counters=self.counters,
        )
        self.flow = FakeTcpFlow(Endpoint(address=ip_address("192.0.2.7"), port=80), self.session)
        self.session.bind_flow(self.flow)
        self.carrier = RecordingStreamCarrier()
        if attached:
            self.session.attach(self.carrier)

    def is_over(self) -> bool:
        return self.session.end_reason is not None


class TestBytes:
    def test_they_go_both_ways_and_are_counted(self) -> None:
        tunnel = Tunnel()
        tunnel.session.on_stream_data(b"request")
        tunnel.session.on_bytes(b"answer!!")

        assert tunnel.flow.sent == b"request"
        assert tunnel.carrier.sent == b"answer!!"
        assert tunnel.counters.stream_uplink_bytes == 7
        assert tunnel.counters.stream_downlink_bytes == 8
        assert (tunnel.uplink.byte_count, tunnel.downlink.byte_count) == (7, 8)

    def test_capsules_are_unwrapped_and_wrapped(self) -> None:
        tunnel = Tunnel(capsules=True)
        tunnel.session.on_stream_data(bytes.fromhex("a028d7f2") + b"\x02up")
        tunnel.session.on_bytes(b"down")

        assert tunnel.flow.sent == b"up"
        assert tunnel.carrier.sent == bytes.fromhex("a028d7f2") + b"\x04down"
        assert tunnel.carrier.consumed == 7  # the head is the client's credit too

    def test_target_is_read_from_the_moment_of_the_answer(self) -> None:
        tunnel = Tunnel(attached=False)
        assert not tunnel.flow.is_reading
        tunnel.session.attach(tunnel.carrier)
        assert tunnel.flow.is_reading


class TestBackPressure:
    def test_client_gets_no_credit_while_the_target_takes_nothing(self) -> None:
        tunnel = Tunnel()
        tunnel.flow.takes = False
        tunnel.session.on_stream_data(bytes(UPLINK_LOW_WATER_BYTES + 1))
        assert tunnel.carrier.consumed == 0

        tunnel.flow.drain()
        assert tunnel.carrier.consumed == UPLINK_LOW_WATER_BYTES + 1

    def test_target_is_paused_while_the_client_takes_nothing(self) -> None:
        tunnel = Tunnel()
        tunnel.carrier.unsent_bytes = SEND_HIGH_WATER_BYTES + 1
        tunnel.session.on_bytes(b"too much")
        assert not tunnel.flow.is_reading

        tunnel.session.on_stream_writable()
        assert not tunnel.flow.is_reading
        tunnel.carrier.unsent_bytes = SEND_HIGH_WATER_BYTES // 2
        tunnel.session.on_stream_writable()
        assert tunnel.flow.is_reading


class TestRate:
    def test_refused_bytes_of_the_client_wait_and_keep_its_credit(self) -> None:
        tunnel = Tunnel(uplink=FakeMeter(budget_bytes=3_000))
        tunnel.session.on_stream_data(bytes(5_000))
        assert len(tunnel.flow.sent) == 2_048
        assert tunnel.carrier.consumed == 0
        assert tunnel.carrier.wakes == 1

        tunnel.uplink.budget_bytes = None
        tunnel.session.on_wake()
        assert len(tunnel.flow.sent) == 5_000
        assert tunnel.carrier.consumed == 5_000

    def test_refused_bytes_of_the_target_wait_and_pause_it(self) -> None:
        tunnel = Tunnel(downlink=FakeMeter(budget_bytes=3_000))
        tunnel.session.on_bytes(bytes(5_000))
        tunnel.session.on_bytes_end()
        assert len(tunnel.carrier.sent) == 2_048
        assert not tunnel.flow.is_reading
        assert not tunnel.carrier.has_ended
        tunnel.session.on_stream_writable()
        assert not tunnel.flow.is_reading

        tunnel.downlink.budget_bytes = None
        tunnel.session.on_wake()
        assert len(tunnel.carrier.sent) == 5_000
        assert tunnel.carrier.has_ended

    def test_the_clients_end_waits_for_its_bytes(self) -> None:
        tunnel = Tunnel(uplink=FakeMeter(budget_bytes=0))
        tunnel.session.on_stream_data(b"late")
        tunnel.session.on_stream_end()
        assert not tunnel.flow.has_ended

        tunnel.uplink.budget_bytes = None
        tunnel.session.on_wake()
        assert tunnel.flow.sent == b"late"
        assert tunnel.flow.has_ended

    def test_lease_that_ends_in_the_middle_of_a_batch_ends_the_tunnel(self) -> None:
        uplink = EndingMeter()
        tunnel = Tunnel(uplink=uplink)
        uplink.on_take = lambda: tunnel.session.close(EndReason.BYTE_QUOTA)
        tunnel.session.on_stream_data(b"the last")
        assert tunnel.flow.sent == b""
        assert tunnel.flow.is_aborted
        assert tunnel.carrier.aborted == [EndReason.BYTE_QUOTA]


class TestEnds:
    @pytest.mark.parametrize("capsules", [False, True])
    def test_each_side_ends_on_its_own_and_both_end_the_tunnel(self, capsules: bool) -> None:
        tunnel = Tunnel(capsules=capsules)
        if capsules:
            tunnel.session.on_stream_data(tunnel.framing.encode_end())
        else:
            tunnel.session.on_stream_end()
        assert tunnel.flow.has_ended
        tunnel.session.on_bytes(b"answer")
        assert not tunnel.is_over()

        tunnel.session.on_bytes_end()
        assert tunnel.session.end_reason is EndReason.PEER_CLOSED
        assert tunnel.flow.is_closed
        assert tunnel.carrier.is_finished
        assert tunnel.carrier.has_ended is not capsules

    def test_tunnel_is_not_over_before_the_target_has_taken_everything(self) -> None:
        tunnel = Tunnel()
        tunnel.flow.takes = False
        tunnel.session.on_stream_data(b"slow")
        tunnel.session.on_stream_end()
        tunnel.session.on_bytes_end()
        assert not tunnel.is_over()

        tunnel.flow.drain()
        assert tunnel.session.end_reason is EndReason.PEER_CLOSED

    def test_targets_end_is_a_final_data_capsule(self) -> None:
        tunnel = Tunnel(capsules=True)
        tunnel.session.on_bytes_end()
        assert tunnel.carrier.sent == bytes.fromhex("a028d7f3") + b"\0"
        assert not tunnel.carrier.has_ended

    def test_stream_that_ends_without_final_data_resets_the_target(self) -> None:
        tunnel = Tunnel(capsules=True)
        tunnel.session.on_stream_end()
        assert tunnel.flow.is_aborted
        assert tunnel.carrier.aborted == [EndReason.PEER_RESET]

    def test_stream_that_ends_inside_a_capsule_is_malformed(self) -> None:
        tunnel = Tunnel(capsules=True)
        tunnel.session.on_stream_data(b"\xa0")
        with pytest.raises(WireError):
            tunnel.session.on_stream_end()

    def test_lost_flow_resets_the_stream(self) -> None:
        tunnel = Tunnel()
        error = FlowError(FlowFault.CONNECTION_TERMINATED, "reset by peer")
        tunnel.session.on_flow_lost(error)
        assert tunnel.session.flow_error is error
        assert tunnel.carrier.aborted == [EndReason.TARGET_FAILED]

    @pytest.mark.parametrize(
        "reason", [EndReason.PEER_RESET, EndReason.CONNECTION_LOST, EndReason.IDLE]
    )
    def test_stream_that_is_cut_off_resets_the_target(self, reason: EndReason) -> None:
        tunnel = Tunnel()
        tunnel.session.ended(reason)
        assert tunnel.flow.is_aborted
        assert tunnel.session.end_reason is reason

    def test_connection_that_is_lost_after_the_clients_end_is_a_clean_end(self) -> None:
        tunnel = Tunnel()
        tunnel.session.on_stream_end()
        tunnel.session.ended(EndReason.CONNECTION_LOST)
        assert tunnel.flow.is_closed
        assert not tunnel.flow.is_aborted
        assert tunnel.session.end_reason is EndReason.PEER_CLOSED

    @pytest.mark.parametrize("reason", [EndReason.REVOKED, EndReason.DRAINED, EndReason.LIFETIME])
    def test_end_from_above_resets_both_sides(self, reason: EndReason) -> None:
        tunnel = Tunnel()
        tunnel.session.close(reason)
        tunnel.session.close(EndReason.KICKED)
        assert tunnel.carrier.aborted == [reason]
        assert tunnel.flow.is_aborted

    def test_session_that_was_closed_before_the_answer_ends_flow_and_stream(self) -> None:
        tunnel = Tunnel(attached=False)
        tunnel.session.close(EndReason.KICKED)
        tunnel.session.attach(tunnel.carrier)
        late = FakeTcpFlow(tunnel.flow.peer, tunnel.session)
        tunnel.session.bind_flow(late)
        assert tunnel.carrier.aborted == [EndReason.KICKED]
        assert tunnel.flow.is_aborted
        assert late.is_closed

    def test_nothing_moves_after_the_end(self) -> None:
        tunnel = Tunnel()
        tunnel.session.close(EndReason.KICKED)
        tunnel.session.on_bytes(b"late")
        tunnel.session.on_bytes_end()
        tunnel.session.on_stream_data(b"late")
        tunnel.session.on_flow_writable()
        tunnel.session.on_stream_writable()
        tunnel.session.on_wake()
        assert tunnel.carrier.sent == b""
        assert tunnel.flow.sent == b""
