"""Owns sessions over extended CONNECT, or Upgrade: HTTP/3, HTTP/2 and HTTP/1.1."""

from collections.abc import Sequence
from dataclasses import replace

from masque_relay.client.address import RelayAddress
from masque_relay.client.errors import TunnelClosed
from masque_relay.client.http_version import HttpChoice
from masque_relay.client.mesh.way import OpenWay, SessionMaker, WayKind
from masque_relay.client.relay import RelayClient
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.ghostwire import FrameSession
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.capsule import Capsule
from masque_relay.wire.ghostwire import FRAME_TYPES, MAX_FRAME_BYTES, FrameType
from masque_relay.wire.ghostwire_names import DEFAULT_PATH, UPGRADE_TOKEN

BUSY_DATAGRAMS = 64
BUSY_BYTES = 65_536

_CHOICES = {WayKind.H3: HttpChoice.H3, WayKind.H2: HttpChoice.H2, WayKind.H1: HttpChoice.H1}


class HttpWay:
    """A TunnelUser that is a session's Carrier."""

    def __init__(self, make_session: SessionMaker) -> None:
        self._make_session = make_session
        self._stream: TunnelStream | None = None
        self.session: FrameSession | None = None

    # TunnelUser.

    def tunnel_opened(self, stream: TunnelStream) -> None:
        """The relay said 2xx: the session begins."""
        self._stream = stream
        self.session = self._make_session(stream.exporter)
        self.session.attach(self)

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Datagrams of any channels."""
        if self.session is not None:
            self.session.on_datagrams(payloads)

    def capsule_received(self, capsule: Capsule) -> None:
        """One frame."""
        if self.session is not None:
            self.session.on_capsule(capsule.type, capsule.value)

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """The stream is over."""
        if self.session is not None:
            self.session.ended(closed.reason)

    # Carrier.

    @property
    def max_payload_bytes(self) -> int:
        """What a datagram takes now."""
        return 0 if self._stream is None else self._stream.max_datagram_bytes

    @property
    def unsent_bytes(self) -> int:
        """Queued on the stream."""
        return 0 if self._stream is None else self._stream.unsent_bytes

    @property
    def is_busy(self) -> bool:
        """Whether what waits is enough for now."""
        stream = self._stream
        return stream is not None and (
            stream.queued_datagrams >= BUSY_DATAGRAMS or stream.unsent_bytes >= BUSY_BYTES
        )

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue datagrams; return how many fitted."""
        return 0 if self._stream is None else self._stream.send_datagrams(prefix, payloads)

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        """Queue one frame. A full buffer ends the stream: bytes must not go missing."""
        stream = self._stream
        if stream is not None and stream.is_open and not stream.send_capsule(capsule_type, value):
            stream.abort("more than the relay takes")

    def abort(self, reason: EndReason) -> None:
        """Give the stream up."""
        if self._stream is not None:
            self._stream.abort(str(reason))

    def finish(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()


async def open_http_way(
    kind: WayKind,
    address: RelayAddress,
    options: RelayOptions,
    make_session: SessionMaker,
    *,
    path: str = DEFAULT_PATH,
) -> OpenWay:
    """Connect by one HTTP version and ask for a session.

    Raises:
        ClientError: this way is blocked, or the relay refuses.
    """
    client = RelayClient(address, replace(options, http=_CHOICES[kind]))
    await client.connect()
    way = HttpWay(make_session)
    request = TunnelRequest(
        protocol=UPGRADE_TOKEN,
        path=path,
        goal="the mesh",
        capsule_types=FRAME_TYPES - {FrameType.DATAGRAM},
        max_capsule_bytes=MAX_FRAME_BYTES,
    )
    try:
        await client.start_tunnel(request, way)
    except BaseException:
        await client.close()
        raise
    if way.session is None:
        raise RuntimeError("a tunnel that opened has no session")
    return OpenWay(
        kind=kind, session=way.session, remote=str(client.peer or ""), close=client.close
    )
