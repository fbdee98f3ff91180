"""Owns H3Session: HTTP/3 on a QUIC connection, between its QuicTransport and its H3Application.

It implements both ``QuicApplication`` (below) and ``H3Transport`` (above), for servers and clients.
A malformed message resets its stream and nothing else (RFC 9114 section 4.1.2).
"""

from collections.abc import Mapping, Sequence

from aioquic.h3.connection import ErrorCode, MessageError, ProtocolError, Setting
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.logger import QuicLoggerTrace

from masque_relay.quic.application import H3Application, Headers, QuicTransport
from masque_relay.quic.h3_framing import H3_DATAGRAM_DRAFTS, H3Framing
from masque_relay.quic.limits import H3Limits
from masque_relay.wire.datagram import encode_quarter_stream_id, split_http_datagram
from masque_relay.wire.errors import WireError


class H3Session:
    """One HTTP/3 connection."""

    def __init__(
        self,
        transport: QuicTransport,
        application: H3Application,
        *,
        limits: H3Limits | None = None,
        quic_logger: QuicLoggerTrace | None = None,
    ) -> None:
        self._transport = transport
        self._application = application
        self._framing = H3Framing(transport, limits=limits or H3Limits(), quic_logger=quic_logger)
        self._sending: dict[int, bytes] = {}
        """Request streams whose sending side is open, and the head of their datagrams."""
        self._receiving: set[int] = set()
        """Streams whose receiving side is open."""
        self._unwanted: set[int] = set()
        """Those of them whose bytes are dropped."""
        self._highest_request_id = -4
        self._sent_goaway_id: int | None = None
        self._told_goaway_id: int | None = None
        self._has_told_settings = False
        self._is_closed = False
        self._takes_datagrams = False

    # -- H3Transport ------------------------------------------------------------------------------

    @property
    def quic(self) -> QuicTransport:
        """What lies below."""
        return self._transport

    @property
    def peer_settings(self) -> Mapping[int, int] | None:
        """None until the peer's SETTINGS arrived."""
        return self._framing.received_settings

    @property
    def datagrams_negotiated(self) -> bool:
        """The peer announced H3_DATAGRAM, by RFC 9297 or a draft, and takes DATAGRAM frames."""
        return self._takes_datagrams

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """The largest HTTP Datagram payload for this stream now; 0 without H3 datagrams."""
        if not self._takes_datagrams:
            return 0
        # Of a stream that cannot send any more nobody asks on the packet path.
        head = self._sending.get(stream_id) or encode_quarter_stream_id(stream_id)
        room_bytes = self._transport.max_datagram_payload_bytes - len(head)
        return max(0, room_bytes)

    @property
    def queued_datagrams(self) -> int:
        """Datagrams of the whole connection that wait for its congestion window."""
        return self._transport.queued_datagrams

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``quarter stream id + prefix + payload`` each; return how many were queued.

        RFC 9297 section 2.1: none for a stream whose sending side is over.
        """
        head = self._sending.get(stream_id)
        if head is None or not self._takes_datagrams:
            return 0
        return self._transport.send_datagrams(head + prefix, payloads)

    def open_request(self, headers: Headers, *, end_stream: bool) -> int:
        """Client only: send a request, return its stream id.

        Raises:
            RuntimeError: the server sent GOAWAY, or this is the server; a bug of the caller.
        """
        if not self._transport.is_client or self._framing.goaway_id is not None:
            msg = "no new requests on this connection"
            raise RuntimeError(msg)
        stream_id = self._transport.next_stream_id(unidirectional=False)
        self._sending[stream_id] = encode_quarter_stream_id(stream_id)
        self.send_headers(stream_id, headers, end_stream=end_stream)
        return stream_id

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """A response head (1xx, final) or trailers. Lower-case names; pseudo-headers first."""
        if stream_id not in self._sending:
            return
        self._framing.send_headers(stream_id, headers, end_stream)
        if end_stream:
            del self._sending[stream_id]

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """One DATA frame (or FIN alone when data is empty)."""
        if stream_id not in self._sending:
            return
        if data:
            self._framing.send_data(stream_id, data, end_stream)
        elif end_stream:
            self._transport.send_stream_data(stream_id, b"", end_stream=True)
            self._framing.end_sending(stream_id)
        if end_stream:
            del self._sending[stream_id]

    def unsent_bytes(self, stream_id: int) -> int:
        """Queued and not yet acknowledged."""
        return self._transport.unsent_stream_bytes(stream_id)

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Grant credit for body bytes that were read."""
        self._transport.consume_stream_bytes(stream_id, byte_count)

    def reset(self, stream_id: int, error_code: int) -> None:
        """Abort both directions of a request stream: RESET_STREAM and STOP_SENDING."""
        if self._sending.pop(stream_id, None) is not None:
            self._transport.reset_stream(stream_id, error_code)
            self._framing.end_sending(stream_id)
        self.stop_receiving(stream_id, error_code)

    def stop_receiving(self, stream_id: int, error_code: int) -> None:
        """STOP_SENDING only: the response is complete, the rest of the request is not wanted."""
        self._transport.stop_stream(stream_id, error_code)
        if stream_id in self._receiving:
            self._unwanted.add(stream_id)
        self._framing.end_receiving(stream_id)

    def send_goaway(self) -> None:
        """GOAWAY for what has not been seen yet (RFC 9114 section 5.2); idempotent.

        Requests that come later all the same are refused with H3_REQUEST_REJECTED, so that the
        client may try them elsewhere.
        """
        if self._sent_goaway_id is not None:
            return
        # A client's GOAWAY is about pushes, of which there are none.
        self._sent_goaway_id = 0 if self._transport.is_client else self._highest_request_id + 4
        self._framing.send_goaway(self._sent_goaway_id)

    def close(self, error_code: int, reason: str) -> None:
        """Close the connection; what else the batch holds is not looked at."""
        self._is_closed = True
        self._transport.close(error_code, reason)

    # -- QuicApplication --------------------------------------------------------------------------

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Take stream bytes apart; what is not body counts as read once its frame is complete."""
        if self._is_closed:
            return
        if not self._is_wanted(stream_id):
            self._transport.consume_stream_bytes(stream_id, len(data))
            if end_stream:
                self._unwanted.discard(stream_id)
                self._receiving.discard(stream_id)
            return
        if not end_stream:
            self._receiving.add(stream_id)
        # Credit for half a frame would let a peer fill memory beyond the window, stream by stream.
        held_before = self._framing.held_bytes(stream_id)
        try:
            events = self._framing.receive_data(stream_id, data, end_stream=end_stream)
        except MessageError as error:
            self._refuse(stream_id, len(data), error)
            return
        except ProtocolError as error:
            self.close(error.error_code, error.reason_phrase)
            return
        body_bytes = sum(len(event.data) for event in events if isinstance(event, DataReceived))
        newly_held = self._framing.held_bytes(stream_id) - held_before
        self._transport.consume_stream_bytes(stream_id, len(data) - body_bytes - newly_held)
        if end_stream:
            self._receiving.discard(stream_id)
        for event in events:
            self._hand_over(stream_id, event)
        if stream_id & 2:
            self._tell_control()

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        """The peer reset its side."""
        was_unwanted = stream_id in self._unwanted
        self._unwanted.discard(stream_id)
        self._receiving.discard(stream_id)
        try:
            has_begun = self._framing.receive_reset(stream_id)
        except ProtocolError as error:
            self.close(error.error_code, error.reason_phrase)
            return
        if stream_id % 4 == 0 and has_begun and not was_unwanted:
            self._application.stream_reset_received(stream_id, error_code)

    def stop_sending_received(self, stream_id: int, error_code: int) -> None:
        """The peer wants no more; our side has been reset already."""
        try:
            self._framing.receive_stop_sending(stream_id)
        except ProtocolError as error:
            self.close(error.error_code, error.reason_phrase)
            return
        if self._sending.pop(stream_id, None) is not None:
            self._application.stream_reset_received(stream_id, error_code)

    def datagrams_received(self, payloads: list[bytes]) -> None:
        """Sort one batch by stream; a datagram without a stream id ends the connection."""
        if self._is_closed:
            return
        if len(payloads) == 1 and payloads[0] and payloads[0][0] < 0x40:
            data = payloads[0]
            self._application.datagrams_received(data[0] * 4, [data[1:]])
            return
        groups: dict[int, list[bytes]] = {}
        last_stream_id = -1
        group: list[bytes] = []
        for payload in payloads:
            if payload and payload[0] < 0x40:  # the first 64 request streams: one byte, no call
                stream_id, data = payload[0] * 4, payload[1:]
            else:
                try:
                    stream_id, data = split_http_datagram(payload)
                except WireError:
                    # RFC 9297 section 2.1.
                    self.close(ErrorCode.H3_DATAGRAM_ERROR, "no quarter stream id")
                    return
            if stream_id != last_stream_id:
                group = groups.setdefault(stream_id, [])
                last_stream_id = stream_id
            group.append(data)
        for stream_id, group in groups.items():
            self._application.datagrams_received(stream_id, group)

    def streams_writable(self) -> None:
        """Acknowledgements arrived."""
        self._application.streams_writable()

    def connection_lost(self, error_code: int, reason: str) -> None:
        """The connection is over."""
        self._application.connection_lost(error_code, reason)

    # -- parts ------------------------------------------------------------------------------------

    def _is_wanted(self, stream_id: int) -> bool:
        if stream_id in self._unwanted:
            return False
        if stream_id % 4 == 0 and not self._transport.is_client:
            is_new = stream_id not in self._receiving and stream_id not in self._sending
            if is_new and self._sent_goaway_id is not None and stream_id >= self._sent_goaway_id:
                self._receiving.add(stream_id)
                self._reset_both(stream_id, ErrorCode.H3_REQUEST_REJECTED)
                return False
            self._highest_request_id = max(self._highest_request_id, stream_id)
        return True

    def _refuse(self, stream_id: int, byte_count: int, error: MessageError) -> None:
        self._transport.consume_stream_bytes(stream_id, byte_count)
        self._sending.pop(stream_id, None)
        self._reset_both(stream_id, ErrorCode.H3_MESSAGE_ERROR)
        self._application.malformed_received(stream_id, error.reason_phrase)

    def _reset_both(self, stream_id: int, error_code: int) -> None:
        self._transport.reset_stream(stream_id, error_code)
        self._framing.end_sending(stream_id)
        self.stop_receiving(stream_id, error_code)

    def _hand_over(self, stream_id: int, event: H3Event) -> None:
        if stream_id in self._unwanted:
            return  # the application has given the stream up while it was told of it
        if isinstance(event, DataReceived):
            self._application.data_received(stream_id, event.data, end_stream=event.stream_ended)
        elif isinstance(event, HeadersReceived):
            if not self._transport.is_client and stream_id not in self._sending:
                self._begin_answering(stream_id)
            self._application.headers_received(
                stream_id, event.headers, end_stream=event.stream_ended
            )

    def _begin_answering(self, stream_id: int) -> None:
        self._sending[stream_id] = encode_quarter_stream_id(stream_id)

    def _tell_control(self) -> None:
        settings = self._framing.received_settings
        if settings is not None and not self._has_told_settings:
            self._has_told_settings = True
            announced = settings.get(Setting.H3_DATAGRAM) == 1 or any(
                settings.get(draft) == 1 for draft in H3_DATAGRAM_DRAFTS
            )
            self._takes_datagrams = announced and self._transport.max_datagram_payload_bytes > 0
            self._application.settings_received(settings)
        goaway_id = self._framing.goaway_id
        if goaway_id is not None and goaway_id != self._told_goaway_id:
            self._told_goaway_id = goaway_id
            self._application.goaway_received(goaway_id)
