"""Owns relayed addresses: which ports are free, taken or reserved (RFC 8656 section 7)."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from fallbacks.turn.allocation import Relayed, Source
from fallbacks.turn.path import RelayAddress, TurnServices
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.stun.codepoints import AddressFamily
from masque_relay.stun.values import family_of

PORT_TRIES = 32
"""With half of the range taken, one open in 2^32 fails without need."""
TOKEN_BYTES = 8
"""RFC 8656 section 18.10."""


@dataclass(slots=True, kw_only=True)
class _Reservation:
    relayed: Relayed
    expires_s: float


class RelayPorts:
    """Binds relayed addresses, and knows which of them are alive."""

    def __init__(self, services: TurnServices) -> None:
        self._services = services
        self._local_by_public: dict[Source, Source] = {}
        self._public_by_local: dict[Source, Source] = {}
        self._reservations: dict[bytes, _Reservation] = {}
        self._random = secrets.SystemRandom()

    def address_for(self, family: AddressFamily) -> RelayAddress | None:
        """Return what relayed addresses of a family are made of, None if there are none."""
        for address in self._services.settings.relay_addresses:
            if family_of(address.local) is family:
                return address
        return None

    def random_ports(self, *, even: bool = False) -> Iterator[int]:
        """Yield ports to try: nobody should guess them (RFC 6056)."""
        settings = self._services.settings
        for _ in range(PORT_TRIES):
            port = self._random.randint(settings.first_port, settings.last_port)
            if even and (port := port & ~1) < settings.first_port:
                continue
            yield port

    def open(self, address: RelayAddress, *, even: bool = False) -> Relayed:
        """Bind a random free port; an even one where asked.

        Raises:
            FlowError: none was found, or the host is out of sockets.
        """
        error: FlowError | None = None
        for port in self.random_ports(even=even):
            try:
                return self._bind(address, port)
            except FlowError as taken:
                if taken.fault is not FlowFault.RESOURCES:
                    raise
                error = taken
        raise error or FlowError(FlowFault.RESOURCES, "no free port for a relayed address")

    def open_pair(self, address: RelayAddress) -> tuple[Relayed, bytes]:
        """Bind an even port, reserve the odd one above it; return the first and the token.

        Raises:
            FlowError: no such pair was found.
        """
        for _ in range(PORT_TRIES):
            even = self.open(address, even=True)
            try:
                odd = self._bind(address, even.public.port + 1)
            except FlowError:
                self.close(even)
                continue
            token = secrets.token_bytes(TOKEN_BYTES)
            lifetime_s = self._services.settings.limits.reservation_lifetime_s
            self._reservations[token] = _Reservation(
                relayed=odd, expires_s=self._services.clock.monotonic_s() + lifetime_s
            )
            return even, token
        raise FlowError(FlowFault.RESOURCES, "no free pair of ports")

    def take_reserved(self, token: bytes) -> Relayed | None:
        """Return the address that a token reserved; it counts once."""
        reservation = self._reservations.pop(token, None)
        return None if reservation is None else reservation.relayed

    def expire(self, now_s: float) -> None:
        """Free the reservations that nobody took."""
        for token in [t for t, r in self._reservations.items() if r.expires_s <= now_s]:
            self.close(self._reservations.pop(token).relayed)

    def close_all(self) -> None:
        """Free every reservation."""
        self.expire(float("inf"))

    def close(self, relayed: Relayed) -> None:
        """Close a relayed address."""
        public, local = _source(relayed.public), _source(relayed.socket.local)
        self._local_by_public.pop(public, None)
        self._public_by_local.pop(local, None)
        relayed.socket.close()

    def is_relayed(self, peer: Source) -> bool:
        """Return whether a peer is another relayed address of ours."""
        return peer in self._local_by_public

    def local_of(self, peer: Source) -> Source:
        """Return where to send for a peer: a relayed address of ours is reached without the NAT."""
        return self._local_by_public.get(peer, peer)

    def public_of(self, source: Source) -> Source:
        """Return how a client knows the source of a datagram."""
        return self._public_by_local.get(source, source)

    def _bind(self, address: RelayAddress, port: int) -> Relayed:
        socket = self._services.bind_relay(Endpoint(address=address.local, port=port))
        public = Endpoint(address=address.public, port=socket.local.port)
        self._local_by_public[_source(public)] = _source(socket.local)
        self._public_by_local[_source(socket.local)] = _source(public)
        return Relayed(socket=socket, public=public, family=family_of(address.local))


def _source(endpoint: Endpoint) -> Source:
    return (str(endpoint.address), endpoint.port)
