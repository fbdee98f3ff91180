"""Owns BoundUdp: a public UDP port at a relay, and datagrams to and from any peer through it.

The client's end of draft-ietf-masque-connect-udp-listen-15. Contexts are registered by themselves:
the first datagram to a peer asks for a context of its own, and until the relay has acknowledged it
datagrams carry the peer's address.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from masque_relay.client.datagram_tunnel import OnClosed
from masque_relay.client.errors import RelayIncapable, RelayTimeout, TunnelClosed
from masque_relay.client.limits import ClientLimits
from masque_relay.client.receive_queue import ReceiveQueue
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.contract.address import Endpoint
from masque_relay.tunnels.context_table import BindContext, ContextLimits, ContextTable
from masque_relay.wire.capsule import Capsule
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES
from masque_relay.wire.connect_udp_bind import (
    BIND_CAPSULE_TYPES,
    BIND_FIELD,
    BIND_VALUE,
    IPV6_PEER_BYTES,
    PUBLIC_ADDRESS_FIELD,
    asks_to_bind,
    decode_peer,
    encode_peer,
    parse_public_addresses,
    peer_end,
)
from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import peek_varint

OnPeerBatch = Callable[[Sequence[bytes], Endpoint], None]
OpenTunnel = Callable[[TunnelRequest, TunnelUser], Awaitable[TunnelStream]]

CLIENT_CONTEXTS = ContextLimits(theirs=256, ours=256)
"""Peers whose datagrams go without their address; a relay of ours takes 1,024."""

MAX_HEAD_BYTES = 8 + IPV6_PEER_BYTES
"""Context ID and peer: what goes in front of a payload at most."""

_KNOWN_PEERS = 4_096


class BoundUdp:
    """UDP payloads to and from many peers, through one public port of a relay. A TunnelUser.

    Made by :func:`open_bound_udp`. Received payloads go to ``on_batch`` if one was given, else they
    wait for :meth:`receive` in a queue of ``limits.receive_datagrams``, whose oldest entry is
    dropped and counted when it is full.

    The port lives as long as the tunnel: when the connection to the relay is lost, so is the port,
    and a new tunnel gets a new one. Whoever needs to be found again tells its peers.

    Attributes:
        public: where peers reach us, one or two addresses.
        sent_count: payloads handed to the connection.
        received_count: payloads that came.
        send_dropped_count: payloads not sent: too large, no room, no tunnel, or a peer that nothing
            can carry.
        malformed_count: datagrams whose context or peer nobody knows.
    """

    def __init__(
        self,
        *,
        limits: ClientLimits,
        listen: bool,
        contexts: ContextLimits = CLIENT_CONTEXTS,
        on_batch: OnPeerBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> None:
        """Make a port that is not open yet.

        Args:
            limits: of the receive() queue.
            listen: hear from peers that we have not sent to.
            contexts: how many peers go compressed.
            on_batch: takes received payloads of one peer; must neither block nor raise.
            on_closed: called once when the tunnel is over.
        """
        self.public: tuple[Endpoint, ...] = ()
        self.sent_count = 0
        self.received_count = 0
        self.send_dropped_count = 0
        self.malformed_count = 0
        self._limits = limits
        self._listen = listen
        self._on_batch = on_batch or self._enqueue
        self._on_closed = on_closed
        self._stream: TunnelStream | None = None
        self._closed: TunnelClosed | None = None
        self._contexts = ContextTable(
            is_proxy=False, limits=contexts, send=self._send_capsule, accepts=_any_peer
        )
        self._endpoints: dict[bytes, Endpoint] = {}
        self._queue: ReceiveQueue[tuple[bytes, Endpoint]] = ReceiveQueue(limits.receive_datagrams)
        self._answered = asyncio.Event()
        """The relay said something about contexts."""

    # -- for the user ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether payloads can be sent."""
        return self._stream is not None and self._stream.is_open

    @property
    def closed(self) -> TunnelClosed | None:
        """Why the port is gone; None while it lives."""
        return self._closed

    @property
    def receive_dropped_count(self) -> int:
        """Payloads pushed out of the receive() queue."""
        return self._queue.dropped_count

    @property
    def listens(self) -> bool:
        """Whether peers that we have not sent to may reach us."""
        return self._contexts.uncompressed is not None

    @property
    def max_payload_bytes(self) -> int:
        """The largest UDP payload that fits now, whoever it is for; 0 once the tunnel is over."""
        if self._stream is None:
            return 0
        room = self._stream.max_datagram_bytes - MAX_HEAD_BYTES
        return max(0, min(room, MAX_UDP_PAYLOAD_BYTES))

    def listen(self) -> None:
        """Hear from peers that we have not sent to, from now on. Idempotent."""
        self._contexts.assign(None)

    def stop_listening(self) -> None:
        """Hear only from peers that we have sent to; the relay drops the others. Idempotent.

        Peers without a context by now are cut off too, until something is sent to them again.
        """
        context = self._contexts.uncompressed
        if context is not None:
            self._contexts.close(context)

    def send_batch(self, payloads: Sequence[bytes], peer: Endpoint) -> int:
        """Send UDP payloads to one peer; return how many were queued. Never blocks or raises.

        Those that are too large, or that find no room, are counted drops.
        """
        stream = self._stream
        prefix = None if stream is None else self._prefix(encode_peer(peer.address, peer.port))
        if stream is None or prefix is None or not payloads:
            self.send_dropped_count += len(payloads)
            return 0
        sent_count = stream.send_datagrams(prefix, payloads)
        self.sent_count += sent_count
        self.send_dropped_count += len(payloads) - sent_count
        return sent_count

    def send(self, payload: bytes, peer: Endpoint) -> bool:
        """Send one UDP payload; return whether it was queued. Prefer :meth:`send_batch`."""
        return self.send_batch((payload,), peer) == 1

    async def wait_listening(self) -> None:
        """Wait until the relay passes on what peers send by themselves.

        Raises:
            RelayTimeout: it does not say so within ``limits.open_timeout_s``.
            TunnelClosed: the tunnel ended before.
        """
        try:
            async with asyncio.timeout(self._limits.open_timeout_s):
                while (context := self._contexts.uncompressed) is not None and not context.usable:
                    if self._closed is not None:
                        raise self._closed
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            self.close()
            raise RelayTimeout("the relay bound a port but registers no context") from None

    async def receive(self) -> tuple[bytes, Endpoint]:
        """Return the next UDP payload and who sent it; wait for one as long as it takes.

        Raises:
            TunnelClosed: the tunnel is over and its queue is empty.
        """
        return await self._queue.take()

    def forget(self, peer: Endpoint) -> None:
        """Close a peer's context, so that another one can have it. Idempotent."""
        context = self._contexts.by_peer.get(encode_peer(peer.address, peer.port))
        if context is not None:
            self._contexts.close(context)

    def close(self) -> None:
        """Give the port up; idempotent."""
        if self._stream is not None:
            self._stream.close()

    # -- TunnelUser ------------------------------------------------------------------------------

    def tunnel_opened(self, stream: TunnelStream) -> None:
        """The relay bound a port, or took the request for something else."""
        self._stream = stream
        if not asks_to_bind(_field_lines(stream, BIND_FIELD)):
            stream.abort("2xx without Connect-UDP-Bind: it takes no bound UDP")
            return
        public = b", ".join(_field_lines(stream, PUBLIC_ADDRESS_FIELD)).decode("latin-1")
        try:
            self.public = tuple(
                Endpoint(address=address, port=port)
                for address, port in parse_public_addresses(public)
            )
        except WireError as error:
            stream.abort(str(error))
            return
        if self._listen:
            self.listen()

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagram payloads, context ID included; give them on by peer.

        Raises:
            WireError: context 0, which section 3 forbids here.
        """
        batches: dict[bytes, list[bytes]] = {}
        prefix, skip = b"", 0
        batch: list[bytes] = []
        for payload in payloads:
            if not (skip and payload.startswith(prefix)):
                found = self._route(payload)
                if found is None:
                    self.malformed_count += 1
                    continue
                wire, skip = found
                prefix = payload[:skip]
                batch = batches.setdefault(wire, [])
            batch.append(payload[skip:])
        for wire, udp in batches.items():
            self.received_count += len(udp)
            self._on_batch(udp, self._endpoint(wire))

    def capsule_received(self, capsule: Capsule) -> None:
        """Take a capsule about contexts.

        Raises:
            WireError: it is malformed.
        """
        self._contexts.on_capsule(capsule.type, capsule.value)
        self._answered.set()

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """Tell whoever waits."""
        self._closed = closed
        self._queue.close(closed)
        self._answered.set()
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed(closed)

    # -- parts -----------------------------------------------------------------------------------

    def _prefix(self, wire: bytes) -> bytes | None:
        """Return what goes in front of payloads to a peer; None when nothing can carry them."""
        contexts = self._contexts
        context = contexts.by_peer.get(wire) or contexts.assign(wire)
        uncompressed = contexts.uncompressed
        if context is not None and (context.usable or uncompressed is None):
            return context.prefix
        return None if uncompressed is None else uncompressed.prefix + wire

    def _route(self, payload: bytes) -> tuple[bytes, int] | None:
        """Return the peer's wire form and where the UDP payload begins; None if nobody knows."""
        context_id, offset = peek_varint(payload) or (-1, 0)
        if context_id == 0:
            raise WireError("a datagram of context 0", section="connect-udp-listen section 3")
        context: BindContext | None = self._contexts.by_id.get(context_id)
        if context is None:
            return None
        if context.peer is not None:
            return context.peer, offset
        end = peer_end(payload, offset)
        return (payload[offset:end], end) if end else None

    def _endpoint(self, wire: bytes) -> Endpoint:
        endpoint = self._endpoints.get(wire)
        if endpoint is None:
            address, port = decode_peer(wire)
            endpoint = Endpoint(address=address, port=port)
            if len(self._endpoints) >= _KNOWN_PEERS:
                del self._endpoints[next(iter(self._endpoints))]
            self._endpoints[wire] = endpoint
        return endpoint

    def _send_capsule(self, capsule_type: int, value: bytes) -> None:
        if self._stream is not None:
            self._stream.send_capsule(capsule_type, value)

    def _enqueue(self, payloads: Sequence[bytes], peer: Endpoint) -> None:
        self._queue.extend((payload, peer) for payload in payloads)


async def open_bound_udp(
    open_tunnel: OpenTunnel,
    path: str,
    *,
    limits: ClientLimits | None = None,
    listen: bool = True,
    on_batch: OnPeerBatch | None = None,
    on_closed: OnClosed | None = None,
) -> BoundUdp:
    """Ask a relay for a public UDP port.

    Args:
        open_tunnel: ``RelayClient.start_tunnel`` or ``RelayLink.open_tunnel``.
        path: ``RelayAddress.bind_path``.
        limits: of the queue.
        listen: hear from peers that we have not sent to.
        on_batch: takes received payloads of one peer; without it they wait for ``receive()``.
        on_closed: called once when the tunnel is over, also when it never opened.

    Raises:
        TunnelRefused: the relay said no.
        RelayIncapable: it took the request for something else than bound UDP.
        ClientError: as of ``open_tunnel``.
    """
    bound = BoundUdp(
        limits=limits or ClientLimits(), listen=listen, on_batch=on_batch, on_closed=on_closed
    )
    request = TunnelRequest(
        protocol="connect-udp",
        path=path,
        goal="a public UDP port",
        headers=((BIND_FIELD.encode("ascii"), BIND_VALUE.encode("ascii")),),
        capsule_types=BIND_CAPSULE_TYPES,
        max_capsule_bytes=MAX_UDP_PAYLOAD_BYTES + MAX_HEAD_BYTES,
    )
    await open_tunnel(request, bound)
    if bound.closed is not None and not bound.public:
        raise RelayIncapable(bound.closed.message, hint="set connect_udp.bind.enabled at the relay")
    await bound.wait_listening()
    return bound


def _field_lines(stream: TunnelStream, name: str) -> list[bytes]:
    wanted = name.encode("ascii")
    return [value for known, value in stream.response if known == wanted]


def _any_peer(wire: bytes) -> bool:
    """Any peer that the relay wants to compress."""
    del wire
    return True
