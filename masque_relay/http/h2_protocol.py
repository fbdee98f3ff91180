"""Owns the h2 library made fit for this server: a malformed request ends its stream alone.

What is overridden, and why (tests/unit/http/test_h2_protocol.py holds h2 to it):

- ``content-length`` and ``:status`` are hidden from h2, which would close the connection over a bad
  one. Our own request code checks them (RFC 9113 section 8.1.1: a stream error).
- Trailers without END_STREAM become a stream error.
- GOAWAY from a client says that it takes no pushes; h2 would stop every stream over it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, TrailersReceived
from h2.settings import SettingCodes, Settings
from hpack import Decoder, HeaderTuple
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame

from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.quic.application import Headers

_HIDDEN = {b"content-length": b"\0content-length", b":status": b":\0status"}
_SHOWN = {hidden: name for name, hidden in _HIDDEN.items()}


@dataclass(slots=True)
class TrailersMalformed(Event):
    """Trailers without END_STREAM."""

    stream_id: int = 0


class HidingDecoder(Decoder):
    """Decodes header blocks and hides the names that h2 would act upon.

    Args:
        hides: those of ``content-length`` and ``:status`` that h2 is not to see.
    """

    def __init__(self, hides: Collection[bytes]) -> None:
        super().__init__()
        self._hidden = {name: _HIDDEN[name] for name in hides}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:  # noqa: FBT001, FBT002  (hpack's)
        """Return the field lines as bytes."""
        return [
            HeaderTuple(self._hidden[line[0]], line[1]) if line[0] in self._hidden else line
            for line in super().decode(data, raw=True)
        ]


class ServerH2(H2Connection):
    """The server's side of one connection, sans I/O."""

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        lacks_end = frame.stream_id in self.streams and "END_STREAM" not in frame.flags
        if lacks_end:
            frame.flags.add("END_STREAM")
        frames, events = super()._receive_headers_frame(frame)
        if lacks_end and any(isinstance(event, TrailersReceived) for event in events):
            return frames, [TrailersMalformed(frame.stream_id)]
        return frames, events

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        return [], []


def make_server(limits: TcpLimits) -> ServerH2:
    """Return a connection whose SETTINGS and window are queued to be sent."""
    connection = ServerH2(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    connection.decoder = HidingDecoder(_HIDDEN)
    connection.decoder.max_header_list_size = limits.max_head_bytes
    # In force at once: what the peer may not know yet is only more than it would use.
    connection.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,  # RFC 8441 section 3
            SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_head_bytes,
        },
    )
    connection.initiate_connection()
    extra_bytes = limits.connection_window_bytes - 65_535
    if extra_bytes > 0:
        connection.increment_flow_control_window(extra_bytes)
    return connection


def shown(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the field lines as the peer sent them."""
    return [(_SHOWN.get(name, name), value) for name, value in headers]


def encode_goaway(last_stream_id: int, error_code: int) -> bytes:
    """Return a GOAWAY frame: h2's own would end its state machine with the running streams."""
    return GoAwayFrame(0, last_stream_id=last_stream_id, error_code=error_code).serialize()
