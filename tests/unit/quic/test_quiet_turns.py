"""A turn in which only datagrams came costs no flush, and nothing that is due is forgotten."""

import pytest
from aioquic.quic.connection import QuicConnection

from masque_relay.quic.quiet_turns import (
    ACK_DELAY_S,
    ACK_PACKETS,
    QUICK_ACK_PACKETS,
    STEADY_ACK_DELAY_S,
)
from tests.support.quic_pair import CLIENT, SERVER, Pair, RecordingApplication, make_pair


def packets_of(pair: Pair) -> list[bytes]:
    return [p for group, _ in pair.client.packets_to_send(pair.now) for p in group]


def datagram_packets(pair: Pair, count: int) -> list[bytes]:
    pair.client.send_datagrams(b"", [bytes(1_000)] * count)
    packets = packets_of(pair)
    assert len(packets) == count
    return packets


class TestAcknowledgements:
    """RFC 9000 section 13.2: delayed a little, never beyond max_ack_delay."""

    @pytest.mark.clause("RFC 9000", "13.2.1", "MUST", "acknowledge within max_ack_delay")
    def test_a_single_datagram_is_acknowledged_after_the_delay(self) -> None:
        pair = make_pair()
        pair.server.receive_packets(datagram_packets(pair, 1), CLIENT, pair.now)
        assert pair.server.packets_to_send(pair.now) == []
        due = pair.server.next_timer()
        assert due is not None
        assert due == pytest.approx(pair.now + ACK_DELAY_S)
        pair.server.handle_timer(due)
        assert pair.server.packets_to_send(due) != []
        assert ACK_DELAY_S < 0.025

    @pytest.mark.clause(
        "RFC 9000",
        "13.2.2",
        "DEVIATION",
        "an ACK for a window of datagrams, not for every second packet",
    )
    def test_a_window_of_datagrams_is_acknowledged_at_once(self) -> None:
        pair = make_pair()
        pair.server.receive_packets(datagram_packets(pair, ACK_PACKETS), CLIENT, pair.now)
        ((packets, _),) = pair.server.packets_to_send(pair.now)
        assert len(packets) == 1

    @pytest.mark.clause(
        "RFC 9000", "13.2.1", "SHOULD", "acknowledge at once when packets are missing"
    )
    def test_a_gap_is_reported_at_once(self) -> None:
        """RFC 9000 section 13.2.1: the sender should learn of the loss."""
        pair = make_pair()
        packets = datagram_packets(pair, 4)
        pair.server.receive_packets(packets[:1], CLIENT, pair.now)
        assert pair.server.packets_to_send(pair.now) == []
        pair.server.receive_packets(packets[2:3], CLIENT, pair.now)
        assert pair.server.packets_to_send(pair.now) != []

    def test_a_gap_that_stays_is_not_reported_with_every_packet(self) -> None:
        pair = make_pair()
        packets = datagram_packets(pair, 9)
        pair.server.receive_packets(packets[:1], CLIENT, pair.now)
        answers = 0
        for packet in packets[2:]:
            pair.server.receive_packets([packet], CLIENT, pair.now)
            answers += len(pair.server.packets_to_send(pair.now))
        assert answers == 1


class TestSteadyFlows:
    """Datagrams that flow without loss are acknowledged more rarely than slow start needs."""

    def steady(self) -> Pair:
        pair = make_pair()
        for _ in range(QUICK_ACK_PACKETS):
            pair.client.send_datagrams(b"", [bytes(1_000)])
            pair.turn()
        return pair

    def due_after(self, pair: Pair, packets: list[bytes]) -> float:
        for packet in packets:
            pair.server.receive_packets([packet], CLIENT, pair.now)
        due = pair.server.next_timer()
        assert due is not None
        return due - pair.now

    def test_an_acknowledgement_waits_longer(self) -> None:
        pair = self.steady()
        pair.server.handle_timer(pair.now + 1)
        pair.server.packets_to_send(pair.now + 1)
        pair.now += 1
        assert self.due_after(pair, datagram_packets(pair, 1)) == pytest.approx(STEADY_ACK_DELAY_S)
        assert STEADY_ACK_DELAY_S + 0.005 <= 0.025  # what aioquic announces

    def test_stream_data_does_not_wait(self) -> None:
        pair = self.steady()
        pair.client.send_stream_data(0, b"request", end_stream=False)
        assert self.due_after(pair, packets_of(pair)) <= ACK_DELAY_S + 1e-9

    def test_after_a_gap_they_are_quick_again(self) -> None:
        pair = self.steady()
        first, _, last = datagram_packets(pair, 3)
        pair.server.receive_packets([first], CLIENT, pair.now)
        pair.server.receive_packets([last], CLIENT, pair.now)
        assert pair.server.packets_to_send(pair.now) != []
        assert self.due_after(pair, datagram_packets(pair, 1)) <= ACK_DELAY_S + 1e-9


class TestQuietTurns:
    def test_a_turn_with_something_to_say_is_not_quiet(self) -> None:
        pair = make_pair()
        pair.settle()
        pair.server.next_timer()
        pair.server.send_datagrams(b"", [b"x"])
        assert pair.server.quiet_timer(pair.now) is None
        assert pair.server.packets_to_send(pair.now) != []

    def test_a_quiet_turn_knows_when_the_next_timer_is(self) -> None:
        pair = make_pair()
        pair.settle()
        pair.server.receive_packets(datagram_packets(pair, 1), CLIENT, pair.now)
        quiet = pair.server.quiet_timer(pair.now)
        exact = pair.server._connection.get_timer()
        assert quiet is not None
        assert exact is not None
        assert quiet <= exact
        assert pair.server.packets_to_send(pair.now) == []

    def flushes(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        seen: list[float] = []
        original = QuicConnection.datagrams_to_send

        def count(self: QuicConnection, now: float) -> list[tuple[bytes, object]]:
            if self is pair.server._connection:
                seen.append(now)
            return original(self, now)

        monkeypatch.setattr(QuicConnection, "datagrams_to_send", count)
        return seen

    def test_datagrams_alone_need_no_flush(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pair = make_pair()
        packets = datagram_packets(pair, 3)
        seen = self.flushes(pair, monkeypatch)
        pair.server.receive_packets(packets, CLIENT, pair.now)
        pair.server.packets_to_send(pair.now)
        assert seen == []
        app = pair.server_app
        assert isinstance(app, RecordingApplication)
        assert len(app.datagrams) == 3

    @pytest.mark.parametrize(
        "what", ["stream", "reset", "stop", "ping", "close", "datagram", "credit"]
    )
    def test_whatever_the_application_does_is_sent(self, what: str) -> None:
        pair = make_pair()
        app = pair.server_app
        assert isinstance(app, RecordingApplication)
        app.consumes = False
        pair.client.send_stream_data(0, bytes(200_000), end_stream=False)
        pair.settle(max_turns=400)
        pair.server.receive_packets(datagram_packets(pair, 1), CLIENT, pair.now)
        assert pair.server.packets_to_send(pair.now) == []
        transport = app.transport
        {
            "stream": lambda: transport.send_stream_data(0, b"x", end_stream=False),
            "reset": lambda: transport.reset_stream(0, 1),
            "stop": lambda: transport.stop_stream(0, 1),
            "ping": pair.server.send_ping,
            "close": lambda: transport.close(0, ""),
            "datagram": lambda: transport.send_datagrams(b"", [b"x"]),
            "credit": lambda: transport.consume_stream_bytes(0, 200_000),
        }[what]()
        assert pair.server.packets_to_send(pair.now) != []

    def test_what_the_window_held_back_is_sent_later(self) -> None:
        pair = make_pair()
        pair.server.send_stream_data(1, bytes(200_000), end_stream=True)
        for _ in range(400):
            pair.client.send_datagrams(b"", [b"x"])
            pair.turn()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert len(client.streams[1]) == 200_000

    def test_a_timer_is_never_later_than_the_real_one(self) -> None:
        pair = make_pair()
        for number in range(200):
            if number % 7 == 0:
                pair.client.send_stream_data(0, b"x", end_stream=False)
            pair.client.send_datagrams(b"", [bytes(100)])
            pair.turn()
            quick = pair.server.next_timer()
            exact = pair.server._connection.get_timer()
            assert quick is not None
            assert exact is not None
            assert quick <= exact

    def test_an_early_timer_is_put_right_when_it_fires(self) -> None:
        pair = make_pair()
        pair.settle()
        before = pair.server.next_timer()
        assert before is not None
        pair.now += 30
        pair.server.receive_packets(datagram_packets(pair, 1), CLIENT, pair.now)
        pair.server.handle_timer(pair.now + ACK_DELAY_S)
        pair.server.packets_to_send(pair.now + ACK_DELAY_S)
        pair.server.handle_timer(before)
        after = pair.server.next_timer()
        assert after is not None
        assert after > before

    def test_lost_datagrams_elsewhere_change_nothing_here(self) -> None:
        pair = make_pair()
        pair.client.receive_packets([], SERVER, pair.now)
        assert pair.client.packets_to_send(pair.now) == []
