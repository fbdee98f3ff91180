"""What h2 is relied on for, and what is overridden in it (a contract with the pinned library)."""

import h2.connection
import h2.events
import h2.exceptions
import pytest
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import Frame, GoAwayFrame

from masque_relay.http.h2_protocol import (
    HidingDecoder,
    ServerH2,
    TrailersMalformed,
    encode_goaway,
    make_server,
    shown,
)
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.quic.application import Headers
from tests.support.http_fakes import GET_HEAD


def pair() -> tuple[h2.connection.H2Connection, ServerH2]:
    """A stock client and our server, settings exchanged."""
    client = h2.connection.H2Connection()
    client.config.validate_outbound_headers = False
    server = make_server(TcpLimits())
    client.initiate_connection()
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    server.receive_data(client.data_to_send())
    return client, server


def sent(
    headers: Headers, body: bytes | None = None, *, stock: bool = False
) -> list[h2.events.Event]:
    """What the server makes of one request."""
    client, server = pair()
    client.send_headers(1, headers, end_stream=body is None)
    if body is not None:
        client.send_data(1, body, end_stream=True)
    receiver: h2.connection.H2Connection = server
    if stock:
        receiver = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        fresh = h2.connection.H2Connection()
        fresh.initiate_connection()
        receiver.receive_data(fresh.data_to_send())
    return receiver.receive_data(client.data_to_send())


@pytest.mark.parametrize("value", [b"x", b"7", b"-1"])
def test_content_length_is_hidden_from_h2_and_shown_to_us(value: bytes) -> None:
    headers = [*GET_HEAD, (b"content-length", value)]
    events = sent(headers, b"body")

    request = events[0]
    assert isinstance(request, h2.events.RequestReceived)
    assert shown(request.headers) == headers
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


@pytest.mark.parametrize("value", [b"x", b"7"])
def test_stock_h2_would_close_the_connection_over_it(value: bytes) -> None:
    """If this fails, h2 has changed: see whether the hiding is still needed."""
    with pytest.raises(h2.exceptions.ProtocolError):
        sent([*GET_HEAD, (b"content-length", value)], b"body", stock=True)


def test_status_of_a_request_is_shown_to_us() -> None:
    headers = [*GET_HEAD, (b":status", b"200")]
    (request, *_) = sent(headers)

    assert isinstance(request, h2.events.RequestReceived)
    assert shown(request.headers) == headers


def test_decoder_keeps_bytes_and_sensitivity() -> None:
    (line,) = HidingDecoder(()).decode(Encoder().encode([(b"x", b"\xff", True)]))

    assert (line[0], line[1]) == (b"x", b"\xff")
    assert not line.indexable


def test_trailers_without_an_end_are_an_event_and_no_connection_error() -> None:
    client, server = pair()
    client.send_headers(1, GET_HEAD)
    server.receive_data(client.data_to_send())
    block = client.encoder.encode([(b"a", b"b")])
    frame = len(block).to_bytes(3, "big") + bytes([1, 4, 0, 0, 0, 1]) + block

    assert server.receive_data(frame) == [TrailersMalformed(1)]


def test_goaway_of_the_client_leaves_h2_able_to_send() -> None:
    client, server = pair()
    client.send_headers(1, GET_HEAD, end_stream=True)
    server.receive_data(client.data_to_send() + GoAwayFrame(0).serialize())

    server.send_headers(1, [(b":status", b"200")], end_stream=True)
    assert server.data_to_send()


def test_goaway_is_the_frame_of_the_rfc() -> None:
    wire = encode_goaway(5, 11)
    frame, length = Frame.parse_frame_header(memoryview(wire[:9]))
    frame.parse_body(memoryview(wire[9 : 9 + length]))

    assert isinstance(frame, GoAwayFrame)
    assert (frame.last_stream_id, frame.error_code) == (5, 11)


def test_windows_are_those_of_the_limits() -> None:
    client, _ = pair()

    assert client.remote_settings[SettingCodes.INITIAL_WINDOW_SIZE] == 262_144
    assert client.outbound_flow_control_window == 1_048_576
