"""H3Session over a real QUIC connection in memory: both roles, and hostile peers."""

from dataclasses import dataclass

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, encode_frame, encode_settings
from aioquic.h3.events import HeadersReceived
from aioquic.quic.events import StopSendingReceived, StreamReset

from masque_relay.quic.application import Headers, QuicTransport
from masque_relay.quic.h3_adapter import H3Session
from masque_relay.quic.limits import H3Limits
from tests.support.aioquic_relays import Attacker, OurRelay, RecordingH3Application
from tests.support.quic_pair import Pair, make_pair

CONNECT: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"connect-udp"),
    (b":scheme", b"https"),
    (b":authority", b"relay.test"),
    (b":path", b"/.well-known/masque/udp/192.0.2.9/53/"),
]
OK: Headers = [(b":status", b"200"), (b"capsule-protocol", b"?1")]


@dataclass
class H3Pair:
    """Two ends of HTTP/3."""

    pair: Pair
    client: H3Session
    server: H3Session
    client_app: RecordingH3Application
    server_app: RecordingH3Application

    def settle(self) -> None:
        self.pair.settle(max_turns=600)

    def open(self) -> int:
        """Open a tunnel; return its stream."""
        stream_id = self.client.open_request(CONNECT, end_stream=False)
        self.settle()
        self.server.send_headers(stream_id, OK, end_stream=False)
        self.settle()
        return stream_id


def h3_pair(*, consumes: bool = True, limits: H3Limits | None = None) -> H3Pair:
    apps = {name: RecordingH3Application(consumes=consumes) for name in ("client", "server")}

    def begin(name: str):  # noqa: ANN202 - a factory
        def factory(transport: QuicTransport) -> H3Session:
            apps[name].session = H3Session(transport, apps[name], limits=limits)
            return session_of(apps[name])

        return {"h3": factory}

    pair = make_pair(applications=begin("server"), client_applications=begin("client"))
    return H3Pair(
        pair,
        session_of(apps["client"]),
        session_of(apps["server"]),
        apps["client"],
        apps["server"],
    )


def session_of(app: RecordingH3Application) -> H3Session:
    assert app.session is not None
    return app.session


class TestSettings:
    """RFC 9114 section 7.2.4, RFC 9220, RFC 9297."""

    def test_the_server_offers_connect_and_datagrams_and_no_webtransport(self) -> None:
        h3 = h3_pair()
        assert h3.client_app.settings == {0x1: 0, 0x6: 16_384, 0x7: 0, 0x8: 1, 0x33: 1}
        assert h3.client.peer_settings == h3.client_app.settings

    def test_the_client_offers_datagrams(self) -> None:
        assert h3_pair().server_app.settings == {0x1: 0, 0x6: 16_384, 0x7: 0, 0x33: 1}

    @pytest.mark.clause("RFC 9114", "7.2.4", "MUST", "ignore settings that are unknown")
    @pytest.mark.parametrize(
        ("settings", "negotiated"),
        [
            pytest.param({}, False, id="curl"),
            pytest.param({0x6: (1 << 62) - 1, 0x1: 0, 0x7: 0}, False, id="curl H3"),
            pytest.param({0x1: 65_536, 0x6: 61_440, 0x7: 100, 0x33: 1}, True, id="Envoy"),
            pytest.param(
                {0x1: 65_536, 0x7: 20, 0x2B603742: 0, 0xFFD277: 1, 0x33: 1, 0x8: 1},
                True,
                id="Firefox",
            ),
            pytest.param({0x33: 1, 0x276: 1, 0x8: 1}, True, id="h2o"),
            pytest.param({0x276: 1}, True, id="draft-00 only"),
            pytest.param({0xFFD277: 1}, True, id="draft-04 only"),
            pytest.param({0x33: 0, 0x1F * 7 + 0x21: 99}, False, id="refused, and grease"),
        ],
    )
    def test_what_peers_send_is_understood(
        self, settings: dict[int, int], negotiated: bool
    ) -> None:
        attacker = Attacker(OurRelay, opens_http=False)
        send_control(attacker, encode_frame(0x4, encode_settings(settings)))
        assert not attacker.is_closed
        relay = our(attacker)
        assert relay.application.settings == settings
        assert session_of(relay.application).datagrams_negotiated is negotiated

    @pytest.mark.clause("RFC 9114", "7.2.4", "MUST NOT", "take an identifier twice in SETTINGS")
    @pytest.mark.clause("RFC 9114", "7.2.4", "MUST", "H3_FRAME_UNEXPECTED for a second SETTINGS")
    @pytest.mark.clause(
        "RFC 9114", "6.2.1", "MUST", "H3_MISSING_SETTINGS when SETTINGS does not come first"
    )
    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            pytest.param(encode_frame(4, b"\x33\x02"), ErrorCode.H3_SETTINGS_ERROR, id="0x33=2"),
            pytest.param(encode_frame(4, b"\x08\x07"), ErrorCode.H3_SETTINGS_ERROR, id="0x8=7"),
            pytest.param(encode_frame(4, b"\x02\x00"), ErrorCode.H3_SETTINGS_ERROR, id="HTTP/2's"),
            pytest.param(
                encode_frame(4, b"\x06\x01\x06\x01"), ErrorCode.H3_SETTINGS_ERROR, id="twice"
            ),
            pytest.param(encode_frame(4, b"\x06"), ErrorCode.H3_FRAME_ERROR, id="truncated"),
            pytest.param(encode_frame(7, b"\x00"), ErrorCode.H3_MISSING_SETTINGS, id="not first"),
            pytest.param(
                encode_frame(4, b"") * 2, ErrorCode.H3_FRAME_UNEXPECTED, id="SETTINGS again"
            ),
            pytest.param(
                encode_frame(4, b"") + encode_frame(0, b""),
                ErrorCode.H3_FRAME_UNEXPECTED,
                id="DATA on the control stream",
            ),
            pytest.param(
                encode_frame(4, b"") + encode_frame(7, b"\x00\x00"),
                ErrorCode.H3_FRAME_ERROR,
                id="GOAWAY with a tail",
            ),
            pytest.param(
                encode_frame(4, b"") + encode_frame(7, b"\x04") + encode_frame(7, b"\x08"),
                ErrorCode.H3_ID_ERROR,
                id="GOAWAY that grows",
            ),
            pytest.param(
                encode_frame(4, b"") + b"\x07\x20",
                ErrorCode.H3_FRAME_ERROR,
                id="GOAWAY of 32 bytes",
            ),
        ],
    )
    def test_a_bad_control_stream_ends_the_connection(self, frames: bytes, code: int) -> None:
        attacker = Attacker(OurRelay, opens_http=False)
        send_control(attacker, frames)
        assert attacker.close_code == code

    def test_datagrams_without_the_transport_parameter_end_the_connection(self) -> None:
        """RFC 9297 section 2.1.1."""
        attacker = Attacker(OurRelay, opens_http=False)
        our(attacker).quic._remote_max_datagram_frame_size = None
        send_control(attacker, encode_frame(4, b"\x33\x01"))
        assert attacker.close_code == ErrorCode.H3_SETTINGS_ERROR

    def test_a_control_stream_in_single_bytes_is_understood(self) -> None:
        attacker = Attacker(OurRelay, opens_http=False)
        frames = b"\x40\x00" + encode_frame(4, b"\x33\x01") + encode_frame(0x21, bytes(5))
        for byte in frames + encode_frame(7, b"\x04"):
            attacker.quic.send_stream_data(2, bytes([byte]))
            attacker.settle(2)
        assert our(attacker).application.settings == {0x33: 1}
        assert our(attacker).application.goaways == [4]

    @pytest.mark.clause("RFC 9114", "7.2.4.2", "SHOULD", "work with defaults until SETTINGS arrive")
    def test_requests_may_come_before_the_settings(self) -> None:
        attacker = Attacker(OurRelay)
        relay = our(Attacker(OurRelay, opens_http=False))
        assert relay.application.settings is None
        assert attacker.h3 is not None
        late = Attacker(OurRelay, opens_http=False)
        _, section = attacker.h3._encoder.encode(0, CONNECT)
        late.quic.send_stream_data(0, encode_frame(1, section))
        late.settle()
        assert our(late).requests == [CONNECT]
        assert our(late).application.settings is None
        assert session_of(our(late).application).max_http_datagram_bytes(0) == 0


def our(attacker: Attacker) -> OurRelay:
    assert isinstance(attacker.relay, OurRelay)
    return attacker.relay


def send_control(attacker: Attacker, frames: bytes) -> None:
    attacker.quic.send_stream_data(2, b"\x00" + frames)
    attacker.settle()


class TestMessages:
    def test_interim_and_final_responses_and_trailers_go_both_ways(self) -> None:
        h3 = h3_pair()
        stream_id = h3.client.open_request(
            [(b":method", b"POST"), *CONNECT[2:], (b"content-length", b"3")], end_stream=False
        )
        h3.client.send_data(stream_id, b"abc", end_stream=False)
        h3.client.send_headers(stream_id, [(b"x-sum", b"1")], end_stream=True)
        h3.settle()
        h3.server.send_headers(stream_id, [(b":status", b"103")], end_stream=False)
        h3.server.send_headers(stream_id, [(b":status", b"200")], end_stream=False)
        h3.server.send_data(stream_id, b"hello", end_stream=False)
        h3.server.send_headers(stream_id, [(b"x-sum", b"2")], end_stream=True)
        h3.settle()
        assert [(h[0][0], e) for _, h, e in h3.server_app.headers] == [
            (b":method", False),
            (b"x-sum", True),
        ]
        assert bytes(h3.server_app.bodies[stream_id]) == b"abc"
        assert [h[0] for _, h, _ in h3.client_app.headers] == [
            (b":status", b"103"),
            (b":status", b"200"),
            (b"x-sum", b"2"),
        ]
        assert bytes(h3.client_app.bodies[stream_id]) == b"hello"
        assert h3.server._framing._stream.keys() == {2, 6, 10}

    def test_a_lone_fin_ends_a_body(self) -> None:
        h3 = h3_pair()
        stream_id = h3.open()
        h3.client.send_data(stream_id, b"abc", end_stream=False)
        h3.client.send_data(stream_id, b"", end_stream=True)
        h3.settle()
        assert stream_id in h3.server_app.ended
        h3.server.send_data(stream_id, b"", end_stream=True)
        h3.settle()
        assert stream_id in h3.client_app.ended
        assert h3.server._sending == {}
        assert h3.client._sending == {}

    def test_body_bytes_are_credited_when_they_were_read(self) -> None:
        h3 = h3_pair(consumes=False)
        stream_id = h3.open()
        h3.client.send_data(stream_id, bytes(600_000), end_stream=True)
        h3.settle()
        window = 262_144
        received = len(h3.server_app.bodies[stream_id])
        assert window - 200 < received <= window
        h3.server.consume(stream_id, received)
        h3.settle()
        assert len(h3.server_app.bodies[stream_id]) > received + window - 200
        assert h3.client.unsent_bytes(stream_id) > 0

    def test_what_is_not_body_is_credited_at_once(self) -> None:
        attacker = Attacker(OurRelay)
        our(attacker).application.consumes = False
        assert attacker.h3 is not None
        attacker.h3.send_headers(0, CONNECT)
        unknown = encode_uint_var(0x21) + encode_uint_var(600_000) + bytes(600_000)
        attacker.quic.send_stream_data(0, unknown)
        attacker.settle(300)
        attacker.h3.send_data(0, b"after", end_stream=False)
        attacker.settle()
        assert bytes(our(attacker).application.bodies[0]) == b"after"

    @pytest.mark.clause(
        "RFC 9114",
        "4.1.2",
        "MUST",
        "treat a content-length that differs from the content as malformed",
    )
    @pytest.mark.parametrize(("length", "body"), [(b"5", b"abc"), (b"2", b"abc"), (b"1", b"")])
    def test_a_content_length_that_lies_is_malformed(self, length: bytes, body: bytes) -> None:
        h3 = h3_pair()
        stream_id = h3.client.open_request(
            [(b":method", b"POST"), *CONNECT[2:], (b"content-length", length)],
            end_stream=not body,
        )
        h3.client.send_data(stream_id, body, end_stream=True)
        h3.settle()
        assert h3.server_app.malformed == [(stream_id, "content-length does not match data size")]
        assert h3.client_app.resets[0] == (stream_id, ErrorCode.H3_MESSAGE_ERROR)

    def test_a_response_without_content_may_have_a_length(self) -> None:
        """RFC 9110 section 8.6: the answer to HEAD."""
        h3 = h3_pair()
        stream_id = h3.client.open_request([(b":method", b"HEAD"), *CONNECT[2:]], end_stream=True)
        h3.settle()
        h3.server.send_headers(
            stream_id, [(b":status", b"200"), (b"content-length", b"9")], end_stream=True
        )
        h3.settle()
        assert stream_id in h3.client_app.ended
        assert h3.client_app.malformed == []

    def test_what_is_sent_after_the_end_is_ignored(self) -> None:
        h3 = h3_pair()
        stream_id = h3.open()
        h3.server.send_data(stream_id, b"x", end_stream=True)
        for end_stream in (False, True):
            h3.server.send_data(stream_id, b"y", end_stream=end_stream)
            h3.server.send_data(stream_id, b"", end_stream=end_stream)
            h3.server.send_headers(stream_id, OK, end_stream=end_stream)
            h3.server.send_data(400, b"y", end_stream=end_stream)
        assert h3.server.send_datagrams(stream_id, b"\0", [b"late"]) == 0
        h3.settle()
        assert bytes(h3.client_app.bodies[stream_id]) == b"x"


class TestStreamErrors:
    """RFC 9114 section 4.1.2: a malformed message is its stream's fault."""

    def test_the_rest_of_a_refused_stream_is_dropped_and_credited(self) -> None:
        attacker = Attacker(OurRelay)
        assert attacker.h3 is not None
        attacker.h3.send_headers(0, [*CONNECT, (b"Bad", b"x")])
        attacker.quic.send_stream_data(0, bytes(700_000))
        attacker.settle(300)
        relay = our(attacker)
        assert relay.application.malformed == [(0, "invalid field name")]
        assert relay.requests == []
        assert StopSendingReceived(error_code=0x10E, stream_id=0) in attacker.events
        assert StreamReset(error_code=0x10E, stream_id=0) in attacker.events
        credited = relay.adapter._connection
        assert credited._consumed_bytes == credited._local_max_data.used
        assert not attacker.is_closed

    @pytest.mark.clause("RFC 9114", "4.2.2", "MUST", "measure field sections by their decoded size")
    def test_a_section_of_cheap_references_is_refused_by_its_decoded_size(self) -> None:
        attacker = Attacker(OurRelay)
        long_static_entry = b"\xd5" * 400  # 32 bytes overhead each: some 17 KB in 400 bytes
        pseudo = b"\xd1\xd7\xc1\x50\x01a"
        attacker.quic.send_stream_data(0, encode_frame(1, b"\0\0" + pseudo + long_static_entry))
        attacker.settle()
        assert our(attacker).application.malformed == [(0, "field section too large")]
        assert not attacker.is_closed

    def test_the_largest_section_passes(self) -> None:
        attacker = Attacker(OurRelay)
        assert attacker.h3 is not None
        taken = sum(len(n) + len(v) + 32 for n, v in CONNECT)
        room = 16_384 - taken - 32 - 1
        for stream_id, size in ((0, room), (4, room + 1)):
            attacker.h3.send_headers(stream_id, [*CONNECT, (b"a", b"~" * size)])
        attacker.settle()
        assert len(our(attacker).requests) == 1
        assert our(attacker).application.malformed == [(4, "field section too large")]

    def test_an_unfinished_request_that_is_reset_leaves_nothing(self) -> None:
        attacker = Attacker(OurRelay)
        attacker.quic.send_stream_data(0, b"\x01\x40\xff" + bytes(100))
        attacker.settle()
        attacker.quic.reset_stream(0, 0x10C)
        attacker.settle()
        relay = our(attacker)
        assert relay.h3._stream.keys() == {2, 6, 10}
        assert relay.requests == []
        assert not attacker.is_closed

    def test_webtransport_streams_are_refused_alone(self) -> None:
        attacker = Attacker(OurRelay)
        attacker.quic.send_stream_data(0, encode_uint_var(0x41) + b"\x00data")
        attacker.quic.send_stream_data(14, encode_uint_var(0x54) + b"\x00data")
        attacker.settle()
        assert StreamReset(error_code=0x10E, stream_id=0) in attacker.events
        assert StopSendingReceived(error_code=0x103, stream_id=14) in attacker.events
        assert not attacker.is_closed

    def test_a_rapid_series_of_resets_leaves_nothing_behind(self) -> None:
        attacker = Attacker(OurRelay)
        assert attacker.h3 is not None
        session = session_of(our(attacker).application)
        for _ in range(4):
            for _ in range(100):
                stream_id = attacker.quic.get_next_available_stream_id()
                attacker.h3.send_headers(stream_id, CONNECT)
                attacker.quic.reset_stream(stream_id, 0x10C)
            attacker.settle(100)
            for stream_id, _ in our(attacker).application.resets:
                session.reset(stream_id, 0x10C)
            attacker.settle(100)
        assert session._sending == {}
        assert session._unwanted == set()
        assert session._receiving == {2, 6, 10}
        assert our(attacker).h3._stream.keys() == {2, 6, 10}
        assert not attacker.is_closed, attacker.quic._close_event


class TestConnectionErrors:
    @pytest.mark.clause(
        "RFC 9114", "7.2.5", "MUST", "end the connection over PUSH_PROMISE from a client"
    )
    @pytest.mark.clause("RFC 9114", "4.1", "MUST", "end the connection over frames out of sequence")
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            pytest.param(encode_frame(0, b"x"), ErrorCode.H3_FRAME_UNEXPECTED, id="DATA first"),
            pytest.param(encode_frame(4, b""), ErrorCode.H3_FRAME_UNEXPECTED, id="SETTINGS"),
            pytest.param(encode_frame(5, b"\0"), ErrorCode.H3_FRAME_UNEXPECTED, id="PUSH_PROMISE"),
            pytest.param(
                encode_frame(1, b"\x02\x00\x80"),
                ErrorCode.QPACK_DECOMPRESSION_FAILED,
                id="dynamic reference",
            ),
        ],
    )
    def test_frames_out_of_place_end_the_connection(self, data: bytes, code: int) -> None:
        attacker = Attacker(OurRelay)
        attacker.quic.send_stream_data(0, data)
        attacker.settle()
        assert attacker.close_code == code

    @pytest.mark.clause("RFC 9114", "7.1", "MUST", "end the connection over a frame cut off by FIN")
    def test_a_frame_cut_off_by_the_end_of_its_stream(self) -> None:
        attacker = Attacker(OurRelay)
        attacker.quic.send_stream_data(0, b"\x01\x10\x00", end_stream=True)
        attacker.settle()
        assert attacker.close_code == ErrorCode.H3_FRAME_ERROR

    @pytest.mark.clause(
        "RFC 9114", "6.2.1", "MUST", "H3_CLOSED_CRITICAL_STREAM when a control stream ends"
    )
    @pytest.mark.parametrize("stream_id", [2, 6, 10])
    @pytest.mark.parametrize("how", ["fin", "reset", "stop"])
    def test_critical_streams_must_not_end(self, stream_id: int, how: str) -> None:
        attacker = Attacker(OurRelay)
        if how == "fin":
            attacker.quic.send_stream_data(stream_id, b"", end_stream=True)
        elif how == "reset":
            attacker.quic.reset_stream(stream_id, 0)
        else:
            attacker.quic.stop_stream(stream_id + 1, 0)
        attacker.settle()
        assert attacker.close_code == ErrorCode.H3_CLOSED_CRITICAL_STREAM

    @pytest.mark.clause(
        "RFC 9114", "6.2.2", "MUST", "H3_STREAM_CREATION_ERROR for a push stream of a client"
    )
    @pytest.mark.clause(
        "RFC 9114", "6.2.1", "MUST", "H3_STREAM_CREATION_ERROR for a second control stream"
    )
    @pytest.mark.parametrize("stream_type", [0x0, 0x1, 0x2, 0x3])
    def test_a_second_critical_stream_or_a_push_is_refused(self, stream_type: int) -> None:
        attacker = Attacker(OurRelay)
        attacker.quic.send_stream_data(14, bytes([stream_type]) + b"\x00")
        attacker.settle()
        assert attacker.close_code == ErrorCode.H3_STREAM_CREATION_ERROR

    @pytest.mark.parametrize("payload", [b"", b"\x40", b"\xd0" + bytes(7), b"\xff" * 8])
    def test_a_datagram_without_a_stream_id_is_the_connections_fault(self, payload: bytes) -> None:
        attacker = Attacker(OurRelay)
        attacker.quic.send_datagram_frame(payload)
        attacker.settle()
        assert attacker.close_code == ErrorCode.H3_DATAGRAM_ERROR

    @pytest.mark.clause(
        "RFC 9114",
        "6.1",
        "MUST",
        "H3_STREAM_CREATION_ERROR for a bidirectional stream of the server",
    )
    def test_a_server_does_not_open_request_streams(self) -> None:
        h3 = h3_pair()
        h3.pair.server.send_stream_data(1, b"x", end_stream=False)
        h3.settle()
        assert h3.server_app.lost is not None
        assert h3.server_app.lost[0] == ErrorCode.H3_STREAM_CREATION_ERROR

    @pytest.mark.clause("RFC 9114", "4.6", "MUST", "H3_ID_ERROR for a push that was never allowed")
    def test_a_server_does_not_push(self) -> None:
        h3 = h3_pair()
        stream_id = h3.open()
        h3.pair.server.send_stream_data(stream_id, b"\x05\x80\xff\xff\xff", end_stream=False)
        h3.settle()
        assert h3.server_app.lost is not None
        assert h3.server_app.lost[0] == ErrorCode.H3_ID_ERROR


class TestDatagrams:
    """RFC 9297 section 2.1."""

    def test_they_come_per_stream_and_batch_without_their_head(self) -> None:
        h3 = h3_pair()
        first, second = h3.open(), h3.open()
        h3.client.send_datagrams(first, b"\0", [b"a", b"b"])
        h3.client.send_datagrams(second, b"\0", [b"c"])
        h3.client.send_datagrams(first, b"\0", [b"d"])
        h3.pair.turn()
        assert h3.server_app.datagrams == [
            (first, [b"\0a", b"\0b", b"\0d"]),
            (second, [b"\0c"]),
        ]

    @pytest.mark.parametrize("number", [0, 63, 64, 100])
    def test_stream_ids_of_any_length_work_both_ways(self, number: int) -> None:
        h3 = h3_pair()
        for _ in range(number):
            stream_id = h3.client.open_request([(b":method", b"GET")], end_stream=True)
            h3.settle()
            h3.server.send_headers(stream_id, OK, end_stream=True)
            h3.settle()
        stream_id = h3.open()
        assert stream_id == 4 * number
        size = h3.server.max_http_datagram_bytes(stream_id)
        assert size == h3.pair.server.max_datagram_payload_bytes - (1 if number < 64 else 2)
        assert h3.server.send_datagrams(stream_id, b"", [bytes(size), bytes(size + 1)]) == 1
        assert h3.client.send_datagrams(stream_id, b"", [bytes(size)]) == 1
        h3.settle()
        assert h3.client_app.datagrams == [(stream_id, [bytes(size)])]
        assert h3.server_app.datagrams == [(stream_id, [bytes(size)])]

    def test_those_of_unknown_streams_are_handed_over_too(self) -> None:
        attacker = Attacker(OurRelay)
        attacker.quic.send_datagram_frame(encode_uint_var(100) + b"x")
        attacker.settle()
        assert our(attacker).application.datagrams == [(400, [b"x"])]

    @pytest.mark.clause(
        "RFC 9297", "2.1.1", "MUST NOT", "send datagrams before both ends announced them"
    )
    def test_a_peer_that_did_not_ask_gets_none(self) -> None:
        attacker = Attacker(OurRelay, opens_http=False)
        send_control(attacker, encode_frame(4, b""))
        session = session_of(our(attacker).application)
        session._sending[0] = b"\0"
        assert session.send_datagrams(0, b"", [b"x"]) == 0
        assert session.max_http_datagram_bytes(0) == 0


class TestEnds:
    def test_reset_aborts_both_directions(self) -> None:
        h3 = h3_pair()
        stream_id = h3.open()
        h3.server.reset(stream_id, ErrorCode.H3_CONNECT_ERROR)
        h3.settle()
        assert (stream_id, ErrorCode.H3_CONNECT_ERROR) in h3.client_app.resets
        assert h3.server._sending == {}
        h3.client.reset(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        h3.settle()
        assert h3.server._unwanted == set()
        assert h3.client._framing._stream.keys() == {3, 7, 11}

    def test_stop_receiving_leaves_the_response_alone(self) -> None:
        h3 = h3_pair()
        stream_id = h3.open()
        h3.server.stop_receiving(stream_id, ErrorCode.H3_NO_ERROR)
        h3.server.send_data(stream_id, b"still", end_stream=True)
        h3.settle()
        assert bytes(h3.client_app.bodies[stream_id]) == b"still"
        assert h3.client_app.resets == [(stream_id, ErrorCode.H3_NO_ERROR)]

    def test_the_peers_reset_reaches_the_application(self) -> None:
        h3 = h3_pair()
        stream_id = h3.open()
        h3.client.reset(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        h3.settle()
        assert (stream_id, ErrorCode.H3_REQUEST_CANCELLED) in h3.server_app.resets

    @pytest.mark.clause(
        "RFC 9114", "5.2", "SHOULD", "refuse requests at or above the identifier of our GOAWAY"
    )
    def test_goaway_lets_what_runs_run_and_refuses_what_comes_later(self) -> None:
        """RFC 9114 section 5.2."""
        h3 = h3_pair()
        stream_id = h3.open()
        h3.server.send_goaway()
        h3.server.send_goaway()
        late = h3.client.open_request(CONNECT, end_stream=False)
        h3.settle()
        assert h3.client_app.goaways == [stream_id + 4]
        assert (late, ErrorCode.H3_REQUEST_REJECTED) in h3.client_app.resets
        assert [sid for sid, _, _ in h3.server_app.headers] == [stream_id]
        h3.client.send_datagrams(stream_id, b"\0", [b"goes on"])
        h3.settle()
        assert h3.server_app.datagrams == [(stream_id, [b"\0goes on"])]
        with pytest.raises(RuntimeError, match="no new requests"):
            h3.client.open_request(CONNECT, end_stream=False)

    def test_a_client_may_go_away_too(self) -> None:
        h3 = h3_pair()
        h3.client.send_goaway()
        h3.settle()
        assert h3.server_app.goaways == [0]

    def test_close_reaches_both(self) -> None:
        h3 = h3_pair()
        h3.server.close(ErrorCode.H3_NO_ERROR, "done")
        h3.settle()
        assert h3.server_app.lost == h3.client_app.lost == (ErrorCode.H3_NO_ERROR, "done")


class TestForeignClient:
    """Stock aioquic as a client: dynamic QPACK, WebTransport settings, interim responses."""

    def test_it_is_served(self) -> None:
        attacker = Attacker(OurRelay)
        assert attacker.h3 is not None
        attacker.h3.send_headers(0, CONNECT)
        attacker.settle()
        session = session_of(our(attacker).application)
        session.send_headers(0, [(b":status", b"103")], end_stream=False)
        session.send_headers(0, OK, end_stream=False)
        attacker.settle()
        answers = [e.headers[0] for e in attacker.http_events if isinstance(e, HeadersReceived)]
        assert answers == [(b":status", b"103"), (b":status", b"200")]
