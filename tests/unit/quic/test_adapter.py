"""QuicAdapter: batches in and out, the application's calls, and every way to end."""

import logging

import pytest
from aioquic.quic.packet import QuicErrorCode

from masque_relay.quic.application import QuicTransport
from masque_relay.quic.limits import QuicLimits
from tests.support.quic_pair import SERVER, Pair, RecordingApplication, make_pair


def server_app(pair: Pair) -> RecordingApplication:
    app = pair.server_app
    assert isinstance(app, RecordingApplication)
    return app


def client_app(pair: Pair) -> RecordingApplication:
    app = pair.client_app
    assert isinstance(app, RecordingApplication)
    return app


class TestHandshake:
    def test_the_application_is_the_one_of_the_alpn(self) -> None:
        chosen: list[str] = []

        def make(name: str):  # noqa: ANN202 - a factory
            def begin(transport: QuicTransport) -> RecordingApplication:
                chosen.append(name)
                return RecordingApplication(transport)

            return begin

        pair = make_pair(
            applications={"one": make("server one"), "two": make("server two")},
            client_applications={"two": make("client two")},
        )
        assert sorted(chosen) == ["client two", "server two"]
        assert pair.server.alpn == pair.client.alpn == "two"
        assert pair.server_owner.completed == pair.client_owner.completed == 1

    def test_the_transport_knows_both_ends(self) -> None:
        pair = make_pair()
        transport = server_app(pair).transport
        assert not transport.is_client
        assert str(transport.peer) == "192.0.2.1:4000"
        assert transport.server_name == "relay.test"
        assert transport.connection_id == pair.client.connection_id
        assert str(pair.client.peer) == "192.0.2.2:443"

    def test_a_factory_that_raises_ends_the_connection_with_one_record(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_: QuicTransport) -> RecordingApplication:
            raise KeyError("bug")

        pair = make_pair(
            applications={"test": broken}, client_applications={"test": RecordingApplication}
        )
        assert client_app_or_none(pair) is None
        assert pair.client.termination == (QuicErrorCode.INTERNAL_ERROR, "internal error")
        assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


def client_app_or_none(pair: Pair) -> object:
    return pair.client.application


class TestBatches:
    @pytest.mark.clause("RFC 9221", "5", "SHOULD", "deliver datagrams as soon as they arrive")
    def test_all_datagrams_of_a_batch_come_in_one_call(self) -> None:
        pair = make_pair()
        pair.client.send_datagrams(b"p", [bytes([n]) * 1_000 for n in range(8)])
        pair.turn()
        app = server_app(pair)
        assert app.datagram_calls == 1
        assert app.datagrams == [b"p" + bytes([n]) * 1_000 for n in range(8)]
        assert pair.server_counters.quic_datagrams_received == 8

    def test_datagrams_come_before_the_end_of_a_stream_in_the_same_batch(self) -> None:
        pair = make_pair()
        pair.client.send_stream_data(0, b"open", end_stream=False)
        pair.turn()
        pair.client.send_datagrams(b"", [b"one"])
        pair.client.send_stream_data(0, b"close", end_stream=True)
        pair.turn()
        app = server_app(pair)
        assert app.calls[-2:] == [("datagrams", 1), ("data", 0, 5, True)]

    def test_a_stream_that_opens_comes_before_the_datagrams_of_its_batch(self) -> None:
        pair = make_pair()
        pair.client.send_stream_data(0, b"open", end_stream=False)
        pair.client.send_datagrams(b"", [b"one"])
        pair.turn()
        assert [call[0] for call in server_app(pair).calls] == ["data", "datagrams"]

    def test_output_is_grouped_by_destination_in_order(self) -> None:
        pair = make_pair()
        pair.client.send_datagrams(b"", [bytes(1_000)] * 5)
        groups = pair.client.packets_to_send(pair.now)
        assert len(groups) == 1
        packets, destination = groups[0]
        assert destination == SERVER
        assert len(packets) == 5
        assert len({len(packet) for packet in packets}) == 1

    def test_packets_of_equal_payloads_are_of_equal_size(self) -> None:
        """What one GSO send takes."""
        pair = make_pair()
        pair.client.send_datagrams(b"", [bytes(1_200)] * 10)
        sizes = {len(p) for group, _ in pair.client.packets_to_send(pair.now) for p in group}
        assert len(sizes) == 1

    def test_streams_writable_is_called_once_a_batch_of_acknowledgements(self) -> None:
        pair = make_pair()
        before = client_app(pair).writable_calls
        pair.client.send_stream_data(0, bytes(5_000), end_stream=False)
        pair.settle()
        assert pair.client.unsent_stream_bytes(0) == 0
        assert 1 <= client_app(pair).writable_calls - before <= 4

    def test_garbage_is_dropped_without_harm(self) -> None:
        pair = make_pair()
        pair.server.receive_packets(
            [b"", b"\x00", b"\x40" * 30, b"\xc0" * 1_200, bytes(1_500)], ("192.0.2.1", 4000), 101.0
        )
        pair.client.send_stream_data(0, b"hello", end_stream=True)
        pair.settle()
        assert bytes(server_app(pair).streams[0]) == b"hello"


class TestDirty:
    def test_sending_outside_of_a_batch_asks_for_one_flush(self) -> None:
        pair = make_pair()
        transport = server_app(pair).transport
        before = pair.server_owner.dirty
        transport.send_datagrams(b"", [b"x"])
        transport.send_stream_data(1, b"x", end_stream=True)
        assert pair.server_owner.dirty == before + 1
        pair.server.packets_to_send(pair.now)
        transport.send_datagrams(b"", [b"x"])
        assert pair.server_owner.dirty == before + 2

    def test_sending_inside_of_a_batch_does_not(self) -> None:
        class Echo(RecordingApplication):
            def datagrams_received(self, payloads: list[bytes]) -> None:
                self.transport.send_datagrams(b"", payloads)

        pair = make_pair(
            applications={"test": Echo}, client_applications={"test": RecordingApplication}
        )
        before = pair.server_owner.dirty
        pair.client.send_datagrams(b"", [b"x"] * 3)
        pair.settle()
        assert pair.server_owner.dirty == before
        assert client_app(pair).datagrams == [b"x"] * 3

    def test_credit_that_is_worth_nothing_yet_asks_for_no_flush(self) -> None:
        pair = make_pair()
        app = server_app(pair)
        app.consumes = False
        pair.client.send_stream_data(0, bytes(100), end_stream=False)
        pair.settle()
        before = pair.server_owner.dirty
        app.transport.consume_stream_bytes(0, 100)
        assert pair.server_owner.dirty == before


class TestStreams:
    def test_what_is_sent_on_a_finished_stream_is_ignored(self) -> None:
        pair = make_pair()
        pair.client.send_stream_data(0, b"a", end_stream=True)
        pair.client.send_stream_data(0, b"b", end_stream=True)
        pair.settle()
        server_app(pair).transport.send_stream_data(0, b"", end_stream=True)
        pair.settle()
        for end_stream in (False, True):
            pair.client.send_stream_data(0, b"c", end_stream=end_stream)
            pair.server.send_stream_data(0, b"c", end_stream=end_stream)
        pair.server.reset_stream(0, 1)
        pair.server.stop_stream(0, 1)
        pair.settle()
        assert bytes(server_app(pair).streams[0]) == b"a"
        assert pair.client.termination is None

    def test_streams_that_do_not_exist_are_ignored(self) -> None:
        pair = make_pair()
        pair.server.reset_stream(400, 1)
        pair.server.stop_stream(400, 1)
        pair.server.send_stream_data(400, b"x", end_stream=False)
        pair.server.consume_stream_bytes(400, 5)
        assert pair.server.unsent_stream_bytes(400) == 0
        pair.settle()
        assert pair.client.termination is None

    def test_reset_and_stop_arrive_with_their_codes(self) -> None:
        pair = make_pair()
        pair.client.send_stream_data(0, b"a", end_stream=False)
        pair.settle()
        pair.client.reset_stream(0, 11)
        pair.client.stop_stream(0, 12)
        pair.settle()
        assert ("reset", 0, 11) in server_app(pair).calls
        assert ("stop", 0, 12) in server_app(pair).calls

    def test_the_number_of_streams_is_bounded_and_renewed(self) -> None:
        pair = make_pair()
        limit = QuicLimits().max_bidirectional_streams
        for number in range(limit + 10):
            pair.client.send_stream_data(4 * number, b"x", end_stream=True)
        pair.settle()
        assert len(server_app(pair).streams) == limit
        for number in range(limit):
            pair.server.send_stream_data(4 * number, b"", end_stream=True)
        pair.settle()
        assert len(server_app(pair).streams) == limit + 10

    def test_a_stream_that_waits_for_credit_may_be_reset(self) -> None:
        pair = make_pair()
        for number in range(QuicLimits().max_bidirectional_streams + 1):
            pair.client.send_stream_data(4 * number, b"x", end_stream=False)
        pair.client.reset_stream(4 * number, 1)
        pair.settle()
        assert pair.client.termination is None

    def test_unidirectional_streams_of_ours_can_only_be_sent_on(self) -> None:
        pair = make_pair()
        assert pair.server.next_stream_id(unidirectional=True) == 3
        pair.server.send_stream_data(3, b"x", end_stream=False)
        pair.server.stop_stream(3, 1)
        pair.settle()
        assert bytes(client_app(pair).streams[3]) == b"x"


class TestEnds:
    def test_close_tells_both_applications_once(self) -> None:
        pair = make_pair()
        near, far = client_app(pair), server_app(pair)
        pair.client.close(0x1234, "bye")
        pair.settle()
        assert near.lost == far.lost == (0x1234, "bye")
        assert pair.server.is_closing
        pair.wait(5.0)
        assert pair.server.is_terminated
        assert pair.client.is_terminated
        assert pair.server_owner.terminated == pair.client_owner.terminated == 1

    @pytest.mark.clause("RFC 9000", "10.2.2", "MUST NOT", "send anything while draining")
    def test_nothing_is_called_or_sent_after_the_end(self) -> None:
        pair = make_pair()
        app = server_app(pair)
        pair.server.close(0, "bye")
        pair.settle()
        calls = len(app.calls)
        assert app.transport.send_datagrams(b"", [b"x"]) == 0
        app.transport.send_stream_data(1, b"x", end_stream=True)
        pair.wait(1.0)
        assert len(app.calls) == calls

    @pytest.mark.clause("RFC 9000", "10.2.1", "SHOULD", "answer ever more rarely while closing")
    def test_packets_after_the_close_are_answered_ever_more_rarely(self) -> None:
        """RFC 9000 section 10.2.1."""
        pair = make_pair()
        pair.client.send_datagrams(b"", [bytes(1_000)] * 10)
        late = [p for group, _ in pair.client.packets_to_send(pair.now) for p in group]
        pair.server.close(0, "bye")
        assert pair.server.packets_to_send(pair.now)
        answers = 0
        for packet in late[:8]:
            pair.server.receive_packets([packet], ("192.0.2.1", 4000), pair.now)
            answers += sum(len(group) for group, _ in pair.server.packets_to_send(pair.now))
        assert answers == 4

    def test_an_application_that_raises_ends_its_connection_with_one_record(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(RecordingApplication):
            def datagrams_received(self, payloads: list[bytes]) -> None:
                super().datagrams_received(payloads)
                raise ValueError("bug")

        pair = make_pair(
            applications={"test": Broken}, client_applications={"test": RecordingApplication}
        )
        app = server_app(pair)
        pair.client.send_datagrams(b"", [b"x"])
        pair.turn()
        pair.client.send_datagrams(b"", [b"y"])
        pair.settle()
        assert app.lost == (QuicErrorCode.INTERNAL_ERROR, "internal error")
        assert pair.client.termination == (QuicErrorCode.INTERNAL_ERROR, "internal error")
        assert app.datagram_calls == 1
        records = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert len(records) == 1
        assert records[0].exc_info is not None

    def test_an_application_may_close_from_inside_a_call(self) -> None:
        class Closes(RecordingApplication):
            def datagrams_received(self, payloads: list[bytes]) -> None:
                self.transport.close(5, "enough")
                assert self.lost is None, "not called from inside another call"

        pair = make_pair(
            applications={"test": Closes}, client_applications={"test": RecordingApplication}
        )
        app = server_app(pair)
        pair.client.send_datagrams(b"", [b"x"])
        pair.settle()
        assert app.lost == (5, "enough")

    @pytest.mark.clause("RFC 9000", "10.1", "MUST", "end silently after the smaller idle timeout")
    def test_silence_ends_it_and_says_so(self) -> None:
        pair = make_pair()
        app = server_app(pair)
        pair.to_server = pair.to_client = lambda _: []
        pair.wait(QuicLimits().idle_timeout_s + 10)
        assert pair.server.is_terminated
        assert app.lost is not None
        assert pair.server.termination == (None, "Idle timeout")

    def test_abandon_is_silent_and_final(self) -> None:
        pair = make_pair()
        app = server_app(pair)
        pair.server.abandon("shutting down")
        assert pair.server.is_terminated
        assert app.lost is not None
        assert pair.server.packets_to_send(pair.now) == []
        assert pair.server.next_timer() is None

    def test_a_transport_error_code_travels_as_one(self) -> None:
        pair = make_pair(handshake=False)
        pair.turn()
        pair.server.close_transport(QuicErrorCode.CONNECTION_REFUSED, "too slow")
        pair.settle()
        assert pair.client.termination == (QuicErrorCode.CONNECTION_REFUSED, "too slow")

    def test_a_bug_in_the_engine_ends_this_connection_only(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pair = make_pair()

        def broken(*_: object) -> None:
            raise IndexError("bug")

        monkeypatch.setattr(pair.server._connection, "receive_batch", broken)
        pair.client.send_ping()
        pair.settle()
        assert pair.client.termination == (QuicErrorCode.INTERNAL_ERROR, "internal error")
        assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1

    def test_a_bug_while_sending_is_final(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pair = make_pair()
        app = server_app(pair)

        def broken(*_: object) -> None:
            raise IndexError("bug")

        monkeypatch.setattr(pair.server._connection, "flush", broken)
        assert pair.server.packets_to_send(pair.now) == []
        assert pair.server.is_terminated
        assert app.lost is not None
        assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


class TestTimers:
    def test_an_early_call_does_nothing(self) -> None:
        pair = make_pair()
        due = pair.server.next_timer()
        assert due is not None
        pair.server.handle_timer(due - 1)
        assert pair.server.termination is None

    def test_a_ping_is_answered(self) -> None:
        pair = make_pair()
        pair.client.send_ping()
        assert pair.turn() >= 1
