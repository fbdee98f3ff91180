"""What strangers and clients may make the relay keep, whatever they send."""

from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType

from masque_relay.quic.ack_policy import MAX_ACK_RECORDS
from masque_relay.quic.limits import QuicLimits
from tests.support.aioquic_relays import Attacker, OurRelay

HALF = encode_uint_var(FrameType.HEADERS) + encode_uint_var(16_000) + bytes(15_000)


def our(attacker: Attacker) -> OurRelay:
    relay = attacker.relay
    assert isinstance(relay, OurRelay)
    return relay


class TestRequestHeadsThatNeverEnd:
    def test_all_together_fit_in_the_connection_window(self) -> None:
        attacker = Attacker(OurRelay)
        for number in range(120):  # 1.8 MB
            attacker.quic.send_stream_data(number * 4, HALF)
        attacker.settle(600)
        session = our(attacker).application.session
        assert session is not None
        held = sum(len(stream.buffer) for stream in session._framing._stream.values())
        assert 500_000 < held <= QuicLimits().connection_window_bytes
        assert not attacker.is_closed

    def test_what_they_held_is_credited_when_they_are_given_up(self) -> None:
        attacker = Attacker(OurRelay)
        for number in range(120):
            attacker.quic.send_stream_data(number * 4, HALF)
        attacker.settle(600)
        for number in range(120):
            attacker.quic.reset_stream(number * 4, ErrorCode.H3_REQUEST_CANCELLED)
        attacker.settle(600)
        connection = our(attacker).adapter._connection
        assert connection._consumed_bytes == connection._local_max_data.used
        assert not attacker.is_closed


class TestPeersThatAcknowledgeNothing:
    def test_the_records_of_our_acknowledgements_are_bounded(self) -> None:
        """Each PING under a packet number that leaves a gap is acknowledged at once."""
        attacker = Attacker(OurRelay)
        most = 0
        for _ in range(2 * MAX_ACK_RECORDS):
            attacker.now += 0.01
            attacker.quic._packet_number += 1
            attacker.send_frames(b"\x01")
            attacker.relay.flush(attacker.now)
            space = our(attacker).quic._spaces[tls.Epoch.ONE_RTT]
            most = max(most, len(space.sent_packets))
        in_flight = 64  # PINGs of our own, which nobody answers; at most a congestion window
        assert MAX_ACK_RECORDS // 2 < most <= MAX_ACK_RECORDS + in_flight
        assert not attacker.is_closed
