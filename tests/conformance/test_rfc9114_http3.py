"""RFC 9114 between bytes and the ASGI application: frames, streams, settings, errors."""

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, encode_frame
from aioquic.quic.events import StreamDataReceived, StreamReset

from masque_relay.quic.application import Headers
from tests.support.aioquic_relays import Attacker, OurRelay
from tests.support.http_fakes import GET_HEAD
from tests.support.http_rig import ScriptedApp, serving

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0, 1, 3, 4, 5, 7, 13
HTTP2_FRAME_TYPES = [0x2, 0x6, 0x8, 0x9]
CONTROL_STREAM, REQUEST_STREAM = 2, 0
EMPTY_SETTINGS = encode_frame(SETTINGS, b"")
GET: Headers = [*GET_HEAD[:2], (b":authority", b"relay.test"), (b":path", b"/")]


def our(attacker: Attacker) -> OurRelay:
    assert isinstance(attacker.relay, OurRelay)
    return attacker.relay


def send_control(frames: bytes) -> Attacker:
    """Begin the control stream by hand."""
    attacker = Attacker(OurRelay, opens_http=False)
    attacker.quic.send_stream_data(CONTROL_STREAM, b"\x00" + frames)
    attacker.settle()
    return attacker


def send_request(frames: bytes, *, end_stream: bool = False) -> Attacker:
    """Send frames behind the head of a request."""
    attacker = Attacker(OurRelay)
    assert attacker.h3 is not None
    attacker.h3.send_headers(REQUEST_STREAM, GET)
    attacker.quic.send_stream_data(REQUEST_STREAM, frames, end_stream=end_stream)
    attacker.settle()
    return attacker


def encode_section(headers: Headers) -> bytes:
    encoder = Attacker(OurRelay).h3
    assert encoder is not None
    return encoder._encoder.encode(0, headers)[1]


@pytest.mark.clause("RFC 9114", "4.1", "MUST", "end the connection over frames out of sequence")
@pytest.mark.parametrize("frame_type", [DATA, HEADERS])
def test_section_4_1_nothing_follows_the_trailers(frame_type: int) -> None:
    trailers = encode_frame(HEADERS, encode_section([(b"x-sum", b"1")]))
    attacker = send_request(trailers + encode_frame(frame_type, trailers[2:]))
    assert attacker.close_code == ErrorCode.H3_FRAME_UNEXPECTED


@pytest.mark.clause("RFC 9114", "9", "MUST", "ignore unknown frame types on any stream")
@pytest.mark.clause("RFC 9114", "7.2.8", "MUST NOT", "see meaning in reserved frame types")
def test_section_9_unknown_frames_pass_anywhere() -> None:
    grease = encode_frame(0x1F * 3 + 0x21, b"grease")
    attacker = send_request(grease + encode_frame(DATA, b"body") + grease, end_stream=True)
    assert not attacker.is_closed
    assert bytes(our(attacker).application.bodies[REQUEST_STREAM]) == b"body"
    attacker = send_control(EMPTY_SETTINGS + grease + encode_frame(GOAWAY, b"\x00"))
    assert our(attacker).application.goaways == [0]


@pytest.mark.clause("RFC 9114", "4.2.1", "MUST", "join cookie lines before a generic application")
async def test_section_4_2_1_cookie_lines_reach_the_application_as_one() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        cookies = [(b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2")]
        await rig.request(0, [*GET_HEAD, *cookies])
        fields = app.calls[0].scope["headers"]
        assert [value for name, value in fields if name == b"cookie"] == [b"a=1; b=2"]
        app.calls[0].finish()


@pytest.mark.clause("RFC 9114", "5.2", "MUST", "refuse a GOAWAY whose identifier grew")
@pytest.mark.parametrize(("first", "second"), [(0, 4), (4, 8)])
def test_section_5_2_the_peers_goaway_does_not_grow(first: int, second: int) -> None:
    ids = [encode_frame(GOAWAY, bytes([last_id])) for last_id in (first, second)]
    assert send_control(EMPTY_SETTINGS + b"".join(ids)).close_code == ErrorCode.H3_ID_ERROR
    assert not send_control(EMPTY_SETTINGS + b"".join(reversed(ids))).is_closed


@pytest.mark.clause("RFC 9114", "5.2", "MUST NOT", "send a GOAWAY whose identifier grew")
def test_section_5_2_our_goaway_does_not_grow() -> None:
    attacker = Attacker(OurRelay)
    session = our(attacker).application.session
    assert session is not None
    assert attacker.h3 is not None
    sent: list[bytes] = []
    for stream_id in (0, 4):
        session.send_goaway()
        attacker.h3.send_headers(stream_id, GET)
        attacker.settle()
        events = [e for e in attacker.events if isinstance(e, StreamDataReceived)]
        sent = [e.data for e in events if e.stream_id == 3 and e.data[0] == GOAWAY]
    assert sent == [encode_frame(GOAWAY, b"\x00")]


@pytest.mark.clause("RFC 9114", "6.1", "SHOULD", "permit 100 request streams at a time")
@pytest.mark.clause("RFC 9114", "6.2", "MUST", "let the peer open three unidirectional streams")
@pytest.mark.clause("RFC 9114", "6.2", "SHOULD", "give each of them 1,024 bytes of credit")
def test_section_6_streams_and_credit_suffice() -> None:
    client = Attacker(OurRelay).quic
    assert client._remote_max_streams_bidi >= 100
    assert client._remote_max_streams_uni >= 3
    assert client._remote_max_stream_data_uni >= 1_024


@pytest.mark.clause("RFC 9114", "6.2.1", "MUST", "open one control stream, SETTINGS first")
@pytest.mark.clause("RFC 9114", "7.2.4.2", "MUST NOT", "wait for the peer before sending SETTINGS")
def test_section_6_2_1_settings_come_first_and_unasked() -> None:
    attacker = Attacker(OurRelay, opens_http=False)
    streams: dict[int, bytes] = {}
    for event in attacker.events:
        if isinstance(event, StreamDataReceived):
            streams[event.stream_id] = streams.get(event.stream_id, b"") + event.data
    control = [data for data in streams.values() if data[:1] == b"\x00"]
    assert len(control) == 1
    assert control[0][1] == SETTINGS
    assert our(attacker).application.settings is None


@pytest.mark.clause("RFC 9114", "6.2", "MUST", "tolerate a stream that ends before its type")
@pytest.mark.parametrize("how", ["fin", "reset", "half a type"])
def test_section_6_2_a_stream_may_end_before_its_type(how: str) -> None:
    attacker = Attacker(OurRelay)
    if how == "fin":
        attacker.quic.send_stream_data(14, b"", end_stream=True)
    else:
        attacker.quic.send_stream_data(14, b"\x40" if how == "half a type" else b"")
        attacker.quic.reset_stream(14, 0)
    attacker.settle()
    assert not attacker.is_closed


@pytest.mark.clause("RFC 9114", "6.2.3", "MUST NOT", "see meaning in reserved stream types")
@pytest.mark.clause("RFC 9114", "6.2", "MUST NOT", "end the connection over unknown stream types")
@pytest.mark.parametrize("stream_type", [0x21, 0x1F * 1_000 + 0x21, 0x54])
def test_section_6_2_3_unknown_streams_are_not_an_error(stream_type: int) -> None:
    attacker = Attacker(OurRelay)
    attacker.quic.send_stream_data(14, encode_uint_var(stream_type) + bytes(500))
    attacker.settle()
    assert not attacker.is_closed


@pytest.mark.clause(
    "RFC 9114", "7.1", "MUST", "end the connection over frames longer or shorter than their fields"
)
@pytest.mark.parametrize("frame_type", [CANCEL_PUSH, GOAWAY, MAX_PUSH_ID])
@pytest.mark.parametrize("payload", [b"", b"\x40", b"\x00\x00"], ids=["empty", "short", "long"])
def test_section_7_1_a_frame_is_exactly_its_fields(frame_type: int, payload: bytes) -> None:
    attacker = send_control(EMPTY_SETTINGS + encode_frame(frame_type, payload))
    assert attacker.close_code == ErrorCode.H3_FRAME_ERROR


@pytest.mark.clause("RFC 9114", "7.1", "MUST", "end the connection over a frame cut off by FIN")
@pytest.mark.parametrize("frame_type", [DATA, 0x21])
def test_section_7_1_a_frame_cut_off_by_the_end(frame_type: int) -> None:
    attacker = send_request(bytes([frame_type, 9]) + b"four", end_stream=True)
    assert attacker.close_code == ErrorCode.H3_FRAME_ERROR


@pytest.mark.clause(
    "RFC 9114", "7.2", "MUST", "end the connection over frames that belong to another stream"
)
@pytest.mark.parametrize("frame_type", [DATA, HEADERS, PUSH_PROMISE])
def test_section_7_2_request_frames_are_unexpected_on_the_control_stream(frame_type: int) -> None:
    attacker = send_control(EMPTY_SETTINGS + encode_frame(frame_type, b"\x00"))
    assert attacker.close_code == ErrorCode.H3_FRAME_UNEXPECTED


@pytest.mark.clause(
    "RFC 9114", "7.2", "MUST", "end the connection over frames that belong to another stream"
)
@pytest.mark.parametrize("frame_type", [CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID])
def test_section_7_2_control_frames_are_unexpected_on_request_streams(frame_type: int) -> None:
    attacker = send_request(encode_frame(frame_type, b"\x00"))
    assert attacker.close_code == ErrorCode.H3_FRAME_UNEXPECTED


@pytest.mark.clause(
    "RFC 9114", "7.2.3", "MUST", "answer CANCEL_PUSH without a push with H3_ID_ERROR"
)
def test_section_7_2_3_nothing_was_pushed_that_could_be_cancelled() -> None:
    attacker = send_control(EMPTY_SETTINGS + encode_frame(CANCEL_PUSH, b"\x00"))
    assert attacker.close_code == ErrorCode.H3_ID_ERROR


@pytest.mark.clause("RFC 9114", "7.2.4.1", "MUST", "refuse the settings of HTTP/2")
@pytest.mark.parametrize("identifier", [0x2, 0x3, 0x4, 0x5])
def test_section_7_2_4_1_settings_of_http2_are_refused(identifier: int) -> None:
    attacker = send_control(encode_frame(SETTINGS, bytes([identifier, 1])))
    assert attacker.close_code == ErrorCode.H3_SETTINGS_ERROR


@pytest.mark.clause("RFC 9114", "7.2.7", "MUST", "refuse a MAX_PUSH_ID that shrinks")
def test_section_7_2_7_the_maximum_push_id_does_not_shrink() -> None:
    ids = encode_frame(MAX_PUSH_ID, b"\x08") + encode_frame(MAX_PUSH_ID, b"\x04")
    assert send_control(EMPTY_SETTINGS + ids).close_code == ErrorCode.H3_ID_ERROR


@pytest.mark.clause("RFC 9114", "7.2.8", "MUST", "end the connection over frame types of HTTP/2")
@pytest.mark.parametrize("frame_type", HTTP2_FRAME_TYPES)
def test_section_7_2_8_frame_types_of_http2_are_unexpected(frame_type: int) -> None:
    frame = encode_frame(frame_type, b"x")
    for attacker in (send_control(EMPTY_SETTINGS + frame), send_request(frame)):
        assert attacker.close_code == ErrorCode.H3_FRAME_UNEXPECTED


@pytest.mark.clause("RFC 9114", "8", "MUST", "take unknown error codes for H3_NO_ERROR")
@pytest.mark.parametrize("code", [0x1F * 7 + 0x21, 0x0, (1 << 62) - 1])
def test_section_8_unknown_error_codes_end_their_stream_only(code: int) -> None:
    attacker = Attacker(OurRelay)
    assert attacker.h3 is not None
    for stream_id in (0, 4):
        attacker.h3.send_headers(stream_id, GET)
    attacker.settle()
    attacker.quic.reset_stream(0, code)
    attacker.settle()
    attacker.h3.send_data(4, b"body", end_stream=True)
    attacker.settle()
    assert not attacker.is_closed
    assert our(attacker).application.resets == [(0, code)]
    assert 4 in our(attacker).application.ended


@pytest.mark.clause("RFC 9114", "4.1", "SHOULD", "reset a request that ends before its head")
def test_section_4_1_an_empty_request_stream_is_reset() -> None:
    attacker = Attacker(OurRelay)
    attacker.quic.send_stream_data(REQUEST_STREAM, b"", end_stream=True)
    attacker.settle()
    assert not attacker.is_closed
    codes = [e.error_code for e in attacker.events if isinstance(e, StreamReset)]
    assert codes == [ErrorCode.H3_REQUEST_INCOMPLETE]
