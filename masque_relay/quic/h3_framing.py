"""Owns H3Framing: aioquic's HTTP/3 state machine, bounded, on any QuicTransport.

Differences from stock aioquic 1.7.2: no QPACK dynamic table either way, so a field section costs
what it weighs and no stream waits for another; a cap on each frame that is buffered whole; field
sections are checked by ``h3_fields``; GOAWAY is understood; no server push and no WebTransport.
"""

from typing import Any, cast

import pylsqpack
from aioquic.h3.connection import (
    ClosedCriticalStream,
    ErrorCode,
    FrameError,
    FrameType,
    FrameUnexpected,
    H3Connection,
    H3Stream,
    HeadersState,
    IdError,
    MessageError,
    ProtocolError,
    Setting,
    SettingsError,
    StreamCreationError,
    StreamType,
    encode_frame,
    parse_settings,
)
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.logger import QuicLoggerTrace

from masque_relay.quic import h3_fields
from masque_relay.quic.application import Headers, QuicTransport
from masque_relay.quic.limits import H3Limits
from masque_relay.wire.varint import encode_varint, peek_varint

H3_DATAGRAM_DRAFTS = (0xFFD277, 0x276)
"""draft-ietf-masque-h3-datagram-04 and -00: Chromium, Firefox, h2o and usque announce them still.
The framing is that of RFC 9297 as far as a peer uses context ID 0."""

_MAX_ID_FRAME_BYTES = 8  # GOAWAY, MAX_PUSH_ID and CANCEL_PUSH hold one varint
_WHOLE_CONTROL_FRAMES = (
    FrameType.SETTINGS,
    FrameType.GOAWAY,
    FrameType.MAX_PUSH_ID,
    FrameType.CANCEL_PUSH,
)


class _ExcessiveLoadError(ProtocolError):
    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class _QuicFacade:
    """What H3Connection asks of a QuicConnection, answered by a QuicTransport."""

    def __init__(self, transport: QuicTransport, quic_logger: QuicLoggerTrace | None) -> None:
        self._transport = transport
        self._quic_logger = quic_logger
        self.configuration = QuicConfiguration(is_client=transport.is_client)

    def get_next_available_stream_id(self, *, is_unidirectional: bool = False) -> int:
        return self._transport.next_stream_id(unidirectional=is_unidirectional)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - aioquic's own signature
        if data or end_stream:
            self._transport.send_stream_data(stream_id, data, end_stream=end_stream)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._transport.reset_stream(stream_id, error_code)


class H3Framing(H3Connection):
    """HTTP/3 frames of one connection.

    The methods that take what the peer sent raise aioquic's ``MessageError`` where one stream is at
    fault and another ``ProtocolError`` where the connection is; the session acts on it.
    """

    goaway_id: int | None = None
    """What the peer's last GOAWAY said."""

    def __init__(
        self,
        transport: QuicTransport,
        *,
        limits: H3Limits,
        quic_logger: QuicLoggerTrace | None = None,
    ) -> None:
        self._transport = transport
        self._limits = limits
        super().__init__(cast("QuicConnection", _QuicFacade(transport, quic_logger)))

    # -- sending ----------------------------------------------------------------------------------

    def _init_connection(self) -> None:
        self._max_table_capacity = 0
        self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        self._max_push_id = None
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        settings: dict[int, int] = {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.MAX_FIELD_SECTION_SIZE: self._limits.max_field_section_bytes,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.H3_DATAGRAM: 1,
        }
        if not self._is_client:
            settings[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        return settings

    def send_goaway(self, last_id: int) -> None:
        """Send GOAWAY (RFC 9114 section 5.2)."""
        assert self._local_control_stream_id is not None  # noqa: S101 - made by the constructor
        self._transport.send_stream_data(
            self._local_control_stream_id,
            encode_frame(FrameType.GOAWAY, encode_varint(last_id)),
            end_stream=False,
        )

    def end_sending(self, stream_id: int) -> None:
        """Our side of a stream is over."""
        stream = self._stream.get(stream_id)
        if stream is not None:
            stream.sending_ended = True
            self._forget_if_ended(stream)

    def end_receiving(self, stream_id: int) -> None:
        """The peer's side of a stream is over, or of no interest any more."""
        stream = self._stream.get(stream_id)
        if stream is not None:
            stream.receiving_ended = True
            stream.buffer = b""
            self._forget_if_ended(stream)

    def _forget_if_ended(self, stream: H3Stream) -> None:
        if stream.is_ended():
            self._stream.pop(stream.stream_id, None)

    # -- receiving --------------------------------------------------------------------------------

    def receive_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> list[H3Event]:
        """Take stream bytes; return what they complete.

        Raises:
            MessageError: the request or response is malformed: a stream error.
            ProtocolError: any other fault: a connection error.
        """
        if stream_id % 4 == 1:
            # RFC 9114 section 6.1: servers open no bidirectional streams.
            raise StreamCreationError("server-initiated bidirectional stream")
        return self._receive_stream_data(
            StreamDataReceived(data=data, end_stream=end_stream, stream_id=stream_id)
        )

    def held_bytes(self, stream_id: int) -> int:
        """Return how many received bytes of a stream wait for the rest of their frame."""
        stream = self._stream.get(stream_id)
        return 0 if stream is None else len(stream.buffer)

    def receive_reset(self, stream_id: int) -> bool:
        """The peer reset its side of a stream; return whether a message had begun on it.

        Raises:
            ProtocolError: it was a critical one.
        """
        self._check_not_critical(stream_id)
        stream = self._stream.get(stream_id)
        has_begun = (
            stream is not None and stream.headers_recv_state is not HeadersState.INITIAL
        ) or self._is_client
        if not has_begun and stream_id % 4 == 0:
            # Nobody saw the request, so nobody will answer.
            self._abort_incomplete_request(stream_id)
            self.end_sending(stream_id)
        # No QPACK stream cancellation: without a dynamic table it may be omitted (RFC 9204
        # section 2.2.2.2), and a peer that takes none of it would make it pile up here.
        self.end_receiving(stream_id)
        return has_begun

    def receive_stop_sending(self, stream_id: int) -> None:
        """The peer wants no more of a stream.

        Raises:
            ProtocolError: it was a critical one.
        """
        self._receive_stop_sending(stream_id)

    def _check_not_critical(self, stream_id: int) -> None:
        if stream_id in {
            self._peer_control_stream_id,
            self._peer_decoder_stream_id,
            self._peer_encoder_stream_id,
        }:
            raise ClosedCriticalStream("critical stream ended")

    # -- request streams --------------------------------------------------------------------------

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        if frame_type == FrameType.PUSH_PROMISE and self._is_client:
            raise IdError("push was never allowed")
        super()._check_request_or_push_frame_type(frame_type, stream)
        if frame_type == FrameType.WEBTRANSPORT_STREAM:
            raise MessageError("WebTransport was not offered")
        if (
            frame_type == FrameType.HEADERS
            and (stream.frame_size or 0) > self._limits.max_field_section_bytes
        ):
            # RFC 9114 section 4.2.2 leaves it open; the frame is refused before it is buffered.
            raise MessageError("field section too large")

    def _handle_request_or_push_frame(
        self,
        frame_type: int,
        frame_data: bytes | None,
        stream: H3Stream,
        stream_ended: bool,  # noqa: FBT001 - aioquic's own signature
    ) -> list[H3Event]:
        if frame_type != FrameType.HEADERS:
            return super()._handle_request_or_push_frame(
                frame_type, frame_data, stream, stream_ended
            )
        if stream.headers_recv_state is HeadersState.AFTER_TRAILERS:
            raise FrameUnexpected("HEADERS after the trailers")
        headers = self._decode_headers(stream.stream_id, frame_data)
        if h3_fields.field_section_bytes(headers) > self._limits.max_field_section_bytes:
            raise MessageError("field section too large")
        is_interim = self._check_headers(headers, stream)
        if stream_ended:
            if is_interim:
                raise MessageError("stream ended after an interim response")
            self._check_content_length(stream)
        if not is_interim:
            stream.headers_recv_state = (
                HeadersState.AFTER_HEADERS
                if stream.headers_recv_state is HeadersState.INITIAL
                else HeadersState.AFTER_TRAILERS
            )
        self._log_headers(headers, len(frame_data or b""), stream)
        return [
            HeadersReceived(headers=headers, stream_id=stream.stream_id, stream_ended=stream_ended)
        ]

    def _log_headers(self, headers: Headers, size_bytes: int, stream: H3Stream) -> None:
        logger: Any = self._quic_logger
        if logger is not None:
            frame = logger.encode_http3_headers_frame(
                length=size_bytes, headers=headers, stream_id=stream.stream_id
            )
            logger.log_event(category="http", event="frame_parsed", data=frame)

    def _check_headers(self, headers: Headers, stream: H3Stream) -> bool:
        """Check a field section by its place; return whether it is an interim response."""
        if stream.headers_recv_state is not HeadersState.INITIAL:
            h3_fields.check_trailers(headers)
            return False
        if not self._is_client:
            stream.expected_content_length = h3_fields.check_request(headers)
            return False
        status, content_length = h3_fields.check_response(headers)
        if status < 200:
            stream.interim_response_received = True
            return True
        stream.expected_content_length = content_length
        return False

    def _check_content_length(self, stream: H3Stream) -> None:
        if self._is_client and not stream.content_length:
            return  # the answer to HEAD, or 304, has a length and no content (RFC 9110 8.6)
        super()._check_content_length(stream)

    # -- unidirectional streams -------------------------------------------------------------------

    def _receive_stream_data_uni(
        self,
        stream: H3Stream,
        data: bytes,
        stream_ended: bool,  # noqa: FBT001 - aioquic's own signature
    ) -> list[H3Event]:
        if stream_ended:
            stream.receiving_ended = True
            self._check_not_critical(stream.stream_id)
        if stream.stream_type is None:
            # At most seven bytes are kept: a varint that is not complete.
            data = stream.buffer + data
            found = peek_varint(data)
            if found is None:
                stream.buffer = data
                return []
            stream.buffer = b""
            stream_type, offset = found
            if stream_type == StreamType.CONTROL:
                if self._peer_control_stream_id is not None:
                    raise StreamCreationError("second control stream")
                self._peer_control_stream_id = stream.stream_id
                stream.stream_type = stream_type
                data = data[offset:]
                if stream_ended:
                    raise ClosedCriticalStream("control stream ended")
            elif stream_type not in {StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER}:
                self._refuse_stream_type(stream, stream_type)
                return []
        if stream.stream_type == StreamType.CONTROL:
            self._receive_control_data(stream, data)
            return []
        if stream.stream_type in {None, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER}:
            return super()._receive_stream_data_uni(stream, data, stream_ended)
        return []

    def _refuse_stream_type(self, stream: H3Stream, stream_type: int) -> None:
        if stream_type == StreamType.PUSH:
            if self._is_client:
                raise IdError("push was never allowed")
            raise StreamCreationError("clients do not push")
        # RFC 9114 section 6.2: unknown types are not an error; stop reading them.
        stream.stream_type = stream_type
        self._transport.stop_stream(stream.stream_id, ErrorCode.H3_STREAM_CREATION_ERROR)

    def _receive_control_data(self, stream: H3Stream, data: bytes) -> None:
        data = stream.buffer + data
        offset = 0
        while True:
            if stream.frame_size is None:
                head = _peek_frame_head(data, offset)
                if head is None:
                    break
                stream.frame_type, stream.frame_size, offset = head
                self._check_control_frame_type(stream.frame_type)
                self._check_control_frame_size(stream.frame_type, stream.frame_size)
            frame_type, frame_size = stream.frame_type or 0, stream.frame_size
            available = len(data) - offset
            if frame_type in _WHOLE_CONTROL_FRAMES:
                if available < frame_size:
                    break
                self._handle_control_frame(frame_type, data[offset : offset + frame_size])
                offset += frame_size
            else:
                # RFC 9114 section 9: unknown frames are skipped, as they come.
                skipped = min(available, frame_size)
                offset += skipped
                if skipped < frame_size:
                    stream.frame_size = frame_size - skipped
                    break
            stream.frame_size = None
            stream.frame_type = None
        stream.buffer = data[offset:]

    def _check_control_frame_size(self, frame_type: int, frame_size: int) -> None:
        if frame_type == FrameType.SETTINGS:
            if frame_size > self._limits.max_settings_bytes:
                raise _ExcessiveLoadError("SETTINGS too large")
        elif frame_type in _WHOLE_CONTROL_FRAMES and frame_size > _MAX_ID_FRAME_BYTES:
            raise FrameError("frame longer than its one integer")

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        if frame_type == FrameType.SETTINGS:
            settings = parse_settings(frame_data)
            self._validate_settings(settings)
            self._received_settings = settings
            self._settings_received = True
            # The peer's QPACK capacity is not taken up: our field sections are small, and its
            # table would be memory of ours that the peer sizes.
        elif frame_type == FrameType.GOAWAY:
            last_id = _decode_id(frame_data)
            # RFC 9114 section 5.2: a request stream's ID from a server; never a larger one.
            grows = self.goaway_id is not None and last_id > self.goaway_id
            if grows or (self._is_client and last_id % 4):
                raise IdError("invalid GOAWAY")
            self.goaway_id = last_id
        elif frame_type == FrameType.CANCEL_PUSH:
            _decode_id(frame_data)
            # RFC 9114 section 7.2.3: nothing was pushed, either way.
            raise IdError("CANCEL_PUSH without a push")
        else:
            super()._handle_control_frame(frame_type, frame_data)

    def _validate_settings(self, settings: dict[int, int]) -> None:
        for setting in (Setting.ENABLE_CONNECT_PROTOCOL, Setting.H3_DATAGRAM):
            if settings.get(setting, 0) not in {0, 1}:
                raise SettingsError(f"{setting.name} is neither 0 nor 1")
        # RFC 9297 section 2.1.1: announcing HTTP Datagrams needs the transport parameter.
        if (
            settings.get(Setting.H3_DATAGRAM) == 1
            and not self._transport.max_datagram_payload_bytes
        ):
            raise SettingsError("H3_DATAGRAM without max_datagram_frame_size")


def _decode_id(frame_data: bytes) -> int:
    """Return the one integer that a frame consists of (RFC 9114 section 7.1)."""
    found = peek_varint(frame_data)
    if found is None or found[1] != len(frame_data):
        raise FrameError("malformed frame of one integer")
    return found[0]


def _peek_frame_head(data: bytes, offset: int) -> tuple[int, int, int] | None:
    """Return frame type, frame size and the offset of the payload; None when not all is there."""
    frame_type = peek_varint(data, offset)
    if frame_type is None:
        return None
    frame_size = peek_varint(data, frame_type[1])
    if frame_size is None:
        return None
    return frame_type[0], *frame_size
