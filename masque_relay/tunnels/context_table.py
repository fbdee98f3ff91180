"""Owns the contexts of one bound UDP tunnel, either end of it (connect-udp-listen section 3).

Both ends register contexts with COMPRESSION_ASSIGN, answer the other's with COMPRESSION_ACK or
COMPRESSION_CLOSE, and may close any: the client has even context IDs, the proxy odd ones. At most
one context belongs to a peer (address and port); when both ends register one at the same time, the
proxy's goes. The one uncompressed context, whose datagrams carry their peer, is the client's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.wire.connect_udp_bind import (
    BindCapsule,
    decode_ack,
    decode_assign,
    decode_close,
    encode_assign,
    encode_context_id,
)
from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import encode_varint

_ASSIGN_SECTION = "connect-udp-listen section 3.1"
_ACK_SECTION = "connect-udp-listen section 3.2"
_UNCOMPRESSED_SECTION = "connect-udp-listen section 4"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLimits:
    """What one tunnel's contexts may use. Section 9: both bounds are a MUST."""

    theirs: int = 1_024
    """Open contexts that the other end registered; further ones are rejected. About 200 bytes each:
    as many peers as a busy game server has."""
    ours: int = 64
    """Open contexts that we register. Each saves 7 or 19 bytes per datagram; 64 peers are the bulk
    of the traffic of nearly every tunnel."""
    scattered_ids: int = 4_096
    """Context IDs that the other end used out of order and that can't be forgotten: none may come
    back. Ends that count up by two, as all do that we know, need none of it; beyond it the capsule
    counts as malformed."""


class BindContext:
    """One registered context.

    Attributes:
        context_id: as on the wire.
        prefix: the same, encoded.
        peer: the peer's wire form; None for the uncompressed context.
        ours: we registered it.
        usable: the other end is known to have it: it registered or acknowledged it.
    """

    __slots__ = ("context_id", "ours", "peer", "prefix", "usable")

    def __init__(self, context_id: int, peer: bytes | None, *, ours: bool) -> None:
        self.context_id = context_id
        self.prefix = encode_varint(context_id)
        self.peer = peer
        self.ours = ours
        self.usable = not ours


class UsedIds:
    """Which context IDs of one parity have been used; small while they come in order."""

    __slots__ = ("_first", "_floor", "_max_scattered", "_scattered")

    def __init__(self, first: int, *, max_scattered: int) -> None:
        """Begin with the lowest ID of the parity."""
        self._first = first
        self._floor = first
        self._scattered: set[int] = set()
        self._max_scattered = max_scattered

    def take(self, context_id: int) -> None:
        """Note an ID as used.

        Raises:
            WireError: it has been used, has the wrong parity, or too many came out of order.
        """
        if context_id % 2 != self._first % 2:
            raise WireError(
                f"context {context_id} is not the peer's to allocate", section=_ASSIGN_SECTION
            )
        if context_id < self._floor or context_id in self._scattered:
            raise WireError(f"context {context_id} used again", section=_ASSIGN_SECTION)
        self._scattered.add(context_id)
        while self._floor in self._scattered:
            self._scattered.remove(self._floor)
            self._floor += 2
        if len(self._scattered) > self._max_scattered:
            raise WireError("too many context IDs out of order", section=_ASSIGN_SECTION)


class ContextTable:
    """The contexts of one tunnel as one end knows them.

    Attributes:
        by_id: every open context.
        by_peer: those of a peer, by its wire form.
        uncompressed: the context whose datagrams carry their peer; None when it is not open.
        accepted_count: registrations of the other end that we took.
        rejected_count: those that we refused.
    """

    __slots__ = (
        "_accepts",
        "_is_proxy",
        "_limits",
        "_next_id",
        "_ours_count",
        "_send",
        "_used",
        "accepted_count",
        "by_id",
        "by_peer",
        "rejected_count",
        "uncompressed",
    )

    def __init__(
        self,
        *,
        is_proxy: bool,
        limits: ContextLimits,
        send: Callable[[int, bytes], None],
        accepts: Callable[[bytes], bool],
    ) -> None:
        """Begin without contexts.

        Args:
            is_proxy: which end this is.
            limits: of both kinds of contexts.
            send: sends one capsule, type and value.
            accepts: whether a peer (wire form) that the other end registers is welcome.
        """
        self._is_proxy = is_proxy
        self._limits = limits
        self._send = send
        self._accepts = accepts
        # RFC 9298 section 4: clients allocate even context IDs, 0 is taken; proxies odd ones.
        self._next_id = 1 if is_proxy else 2
        self._used = UsedIds(2 if is_proxy else 1, max_scattered=limits.scattered_ids)
        self._ours_count = 0
        self.by_id: dict[int, BindContext] = {}
        self.by_peer: dict[bytes, BindContext] = {}
        self.uncompressed: BindContext | None = None
        self.accepted_count = 0
        self.rejected_count = 0

    def assign(self, peer: bytes | None) -> BindContext | None:
        """Register a context for a peer, or the uncompressed one (None); tell the other end.

        Returns None where there is one already, where we have as many as we may, and, for a proxy,
        where the client has no uncompressed context (section 3.1: the client alone chooses then).
        """
        if peer is None:
            if self._is_proxy or self.uncompressed is not None:
                return None
        elif (
            peer in self.by_peer
            or self._ours_count >= self._limits.ours
            or (self._is_proxy and self.uncompressed is None)
        ):
            return None
        context = BindContext(self._next_id, peer, ours=True)
        self._next_id += 2
        self._ours_count += 1
        self._open(context)
        self._send(BindCapsule.COMPRESSION_ASSIGN, encode_assign(context.context_id, peer))
        return context

    def close(self, context: BindContext) -> None:
        """Close a context, whoever registered it; tell the other end."""
        if self._forget(context.context_id):
            self._send(BindCapsule.COMPRESSION_CLOSE, encode_context_id(context.context_id))

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        """Take a capsule of the other end and answer it.

        Raises:
            WireError: it is malformed: the stream is to be aborted (RFC 9297 section 3.3).
        """
        match capsule_type:
            case BindCapsule.COMPRESSION_ASSIGN:
                self._on_assign(value)
            case BindCapsule.COMPRESSION_ACK:
                self._on_ack(decode_ack(value))
            case BindCapsule.COMPRESSION_CLOSE:
                # Closed already: both ends closed it at once. Never opened: nothing to close.
                self._forget(decode_close(value))
            case _:
                """RFC 9297 section 3.2: unknown types are skipped."""

    def _on_assign(self, value: bytes) -> None:
        assign = decode_assign(value)
        context_id, peer = assign.context_id, assign.peer
        self._used.take(context_id)
        if peer is None:
            self._check_uncompressed()
            accepted = True
        else:
            accepted = self._make_way(peer) and self._accepts(peer)
        theirs_count = len(self.by_id) - self._ours_count
        # The uncompressed context is the one without which nothing works: it always has room.
        if accepted and (peer is None or theirs_count < self._limits.theirs):
            self._open(BindContext(context_id, peer, ours=False))
            self.accepted_count += 1
            self._send(BindCapsule.COMPRESSION_ACK, encode_context_id(context_id))
        else:
            self.rejected_count += 1
            self._send(BindCapsule.COMPRESSION_CLOSE, encode_context_id(context_id))

    def _check_uncompressed(self) -> None:
        if not self._is_proxy:
            raise WireError(
                "the proxy opened an uncompressed context", section=_UNCOMPRESSED_SECTION
            )
        if self.uncompressed is not None:
            raise WireError("a second uncompressed context", section=_UNCOMPRESSED_SECTION)

    def _make_way(self, peer: bytes) -> bool:
        """Settle that both ends registered a context for one peer: the proxy's goes."""
        known = self.by_peer.get(peer)
        if known is None:
            return True
        if not known.ours:
            raise WireError("a second context for one peer", section=_ASSIGN_SECTION)
        if self._is_proxy:
            self.close(known)
        return self._is_proxy

    def _on_ack(self, context_id: int) -> None:
        is_ours = context_id % 2 == self._next_id % 2 and 0 < context_id < self._next_id
        if not is_ours:
            raise WireError(
                f"COMPRESSION_ACK of context {context_id}, which we never assigned",
                section=_ACK_SECTION,
            )
        context = self.by_id.get(context_id)
        if context is not None:  # else it was closed while the acknowledgement was under way
            context.usable = True

    def _open(self, context: BindContext) -> None:
        self.by_id[context.context_id] = context
        if context.peer is None:
            self.uncompressed = context
        else:
            self.by_peer[context.peer] = context

    def _forget(self, context_id: int) -> bool:
        context = self.by_id.pop(context_id, None)
        if context is None:
            return False
        self._ours_count -= context.ours
        if context.peer is None:
            self.uncompressed = None
        else:
            del self.by_peer[context.peer]
        return True
