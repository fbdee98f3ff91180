"""Owns a Ghostwire session on a QUIC connection of its own (ALPN ``ghostwire/1``), either end.

Frames travel on the client's first bidirectional stream, DATA and END of each stream channel on a
unidirectional stream of that channel, so that a lost packet holds up one channel only. What must
not be overtaken is not: DATA follows OPENED by the credit that it needs.
"""

from collections.abc import Sequence
from typing import Protocol

from masque_relay.contract.ghostwire import FrameSession
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.frame_stream import FrameStream
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import ErrorCode, FrameType
from masque_relay.wire.varint import decode_varint

ALPN = "ghostwire/1"
BUSY_DATAGRAMS = 64
"""One batch of the packet path waits in the connection; the rest where senders are told apart."""
MAX_CHANNEL_STREAMS = 512
"""Of the peer's, open at once: twice the channels that a session may have."""

_FRAME_STREAM = 0
_UNIDIRECTIONAL = 2


class QuicLink(Protocol):
    """The part of quic's QuicTransport that a session needs."""

    @property
    def max_datagram_payload_bytes(self) -> int:
        """What a DATAGRAM frame takes now."""
        ...

    @property
    def queued_datagrams(self) -> int:
        """DATAGRAM frames that wait for the congestion window."""
        ...

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``prefix + payload`` each; return how many were queued."""
        ...

    def next_stream_id(self, *, unidirectional: bool) -> int:
        """The id that the next stream that we open will have."""
        ...

    def send_stream_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Queue stream bytes."""
        ...

    def unsent_stream_bytes(self, stream_id: int) -> int:
        """Queued on a stream and not yet acknowledged."""
        ...

    def consume_stream_bytes(self, stream_id: int, byte_count: int) -> None:
        """Grant the peer credit."""
        ...

    def close(self, error_code: int, reason: str) -> None:
        """Close the connection."""
        ...


class GhostwireConnection:
    """A QuicApplication that drives a session, and its Carrier."""

    def __init__(self, transport: QuicLink, session: FrameSession) -> None:
        """Take a connection whose handshake is complete; a client's session speaks at once."""
        self._transport = transport
        self._session = session
        self._incoming: dict[int, FrameStream] = {}
        self._outgoing: dict[int, int] = {}
        """Channel -> the stream that carries our bytes of it."""
        self._is_over = False
        self._is_finishing = False
        session.attach(self)

    # -- QuicApplication --------------------------------------------------------------------------

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Take frames from the frame stream, or from a channel's."""
        self._transport.consume_stream_bytes(stream_id, len(data))
        if self._is_over:
            return
        is_channel = stream_id & _UNIDIRECTIONAL
        try:
            if stream_id != _FRAME_STREAM and not is_channel:
                raise WireError(f"stream {stream_id}", section="ghostwire: Carriers")
            frames = self._incoming.get(stream_id)
            if frames is None:
                if len(self._incoming) >= MAX_CHANNEL_STREAMS:
                    raise WireError("too many streams", section="ghostwire: Carriers")
                frames = self._incoming[stream_id] = FrameStream(self._session)
            frames.feed(data)
            if end_stream:
                del self._incoming[stream_id]
                frames.finish()
        except WireError:
            self._close(EndReason.PROTOCOL_ERROR, ErrorCode.MALFORMED)
            return
        if end_stream and not is_channel:
            self._close(EndReason.PEER_CLOSED, ErrorCode.NONE)

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        """A channel's stream that breaks off takes the session along: bytes are missing."""
        self._close(EndReason.PEER_RESET, ErrorCode.RESET)

    def stop_sending_received(self, stream_id: int, error_code: int) -> None:
        """As with a reset."""
        self._close(EndReason.PEER_RESET, ErrorCode.RESET)

    def datagrams_received(self, payloads: list[bytes]) -> None:
        """Take datagrams of any channels."""
        if not self._is_over:
            self._session.on_datagrams(payloads)

    def streams_writable(self) -> None:
        """What waited has left, or some of it."""
        if not self._is_over:
            self._session.on_writable()
        elif self._is_finishing and not self._transport.unsent_stream_bytes(_FRAME_STREAM):
            self._transport.close(ErrorCode.NONE, "")

    def connection_lost(self, error_code: int, reason: str) -> None:
        """The connection is over."""
        self._is_over, self._is_finishing = True, False
        self._session.ended(EndReason.CONNECTION_LOST)

    # -- Carrier ----------------------------------------------------------------------------------

    @property
    def max_payload_bytes(self) -> int:
        """What a DATAGRAM frame takes now."""
        return self._transport.max_datagram_payload_bytes

    @property
    def unsent_bytes(self) -> int:
        """Queued on the frame stream and on those of channels."""
        unsent_bytes = self._transport.unsent_stream_bytes
        return unsent_bytes(_FRAME_STREAM) + sum(map(unsent_bytes, self._outgoing.values()))

    @property
    def is_busy(self) -> bool:
        """Enough datagrams wait for the congestion window."""
        return self._transport.queued_datagrams >= BUSY_DATAGRAMS

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue datagrams; return how many fitted."""
        return 0 if self._is_over else self._transport.send_datagrams(prefix, payloads)

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        """Queue a frame on the stream where it belongs."""
        if self._is_over:
            return
        frame = encode_capsule(capsule_type, value)
        if capsule_type == FrameType.DATA:
            stream_id = self._stream_of(decode_varint(value)[0])
            self._transport.send_stream_data(stream_id, frame, end_stream=False)
        elif capsule_type == FrameType.END:
            channel = decode_varint(value)[0]
            self._transport.send_stream_data(self._stream_of(channel), frame, end_stream=True)
            del self._outgoing[channel]
        else:
            self._transport.send_stream_data(_FRAME_STREAM, frame, end_stream=False)
            if capsule_type == FrameType.CLOSE:
                self._end_channel_stream(decode_varint(value)[0])

    def abort(self, reason: EndReason) -> None:
        """Close the connection."""
        self._close(reason, ErrorCode.INTERNAL)

    def finish(self) -> None:
        """End the frame stream; the connection follows when the peer has all of it.

        A peer that never acknowledges is left to QUIC's own idle timeout.
        """
        if not self._is_over:
            self._is_over = self._is_finishing = True
            self._transport.send_stream_data(_FRAME_STREAM, b"", end_stream=True)

    def _stream_of(self, channel: int) -> int:
        stream_id = self._outgoing.get(channel)
        if stream_id is None:
            stream_id = self._transport.next_stream_id(unidirectional=True)
            self._outgoing[channel] = stream_id
        return stream_id

    def _end_channel_stream(self, channel: int) -> None:
        stream_id = self._outgoing.pop(channel, None)
        if stream_id is not None:
            self._transport.send_stream_data(stream_id, b"", end_stream=True)

    def _close(self, reason: EndReason, code: ErrorCode) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._session.ended(reason)
        self._transport.close(code, "")
