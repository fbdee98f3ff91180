"""Owns IpTunnel: one CONNECT-IP tunnel, whole IP packets in batches both ways (RFC 9484)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from masque_relay.client.datagram_tunnel import DatagramTunnel, OnBatch, OnClosed
from masque_relay.client.errors import RelayTimeout, TunnelClosed
from masque_relay.client.limits import ClientLimits
from masque_relay.client.tunnel_stream import TunnelRequest
from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IPNetwork, IpRange, IpScope
from masque_relay.wire.capsule import Capsule
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ADDRESS_REQUEST,
    DEFAULT_TEMPLATE,
    PROTOCOL,
    ROUTE_ADVERTISEMENT,
    TEMPLATE_VARIABLES,
    WILDCARD,
    AddressEntry,
    decode_address_assign,
    decode_address_request,
    decode_routes,
    encode_addresses,
    refused_address,
)
from masque_relay.wire.uri_template import UriTemplate

MAX_PACKET_BYTES = 65_535
"""What IPv4 can name; nobody carries larger IPv6 packets."""

ANY_IPV4 = IPv4Address(0)
ANY_IPV6 = IPv6Address(0)
"""RFC 9484 section 4.7.2: asking for the all-zero address asks for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IpGoal:
    """What is asked for, as messages show it."""

    scope: IpScope

    def __str__(self) -> str:
        """Return ``IP packets to *``."""
        return f"IP packets to {self.scope}"


def ip_request(scope: IpScope, *, template: str = DEFAULT_TEMPLATE) -> TunnelRequest:
    """Return the request for a tunnel (RFC 9484 section 4.5).

    Args:
        scope: what packets will be sent to; ``IpScope()`` for everything.
        template: path and query of the URI template.

    Raises:
        WireError: the template is none.
    """
    target = WILDCARD if scope.target is None else str(scope.target)
    protocol = WILDCARD if scope.ip_protocol is None else str(scope.ip_protocol)
    values: dict[str, str] = dict(zip(TEMPLATE_VARIABLES, (target, protocol), strict=True))
    return TunnelRequest(
        protocol=PROTOCOL,
        path=UriTemplate.parse(template).expand_path(values),
        goal=IpGoal(scope=scope),
        capsule_types=frozenset({ADDRESS_ASSIGN, ADDRESS_REQUEST, ROUTE_ADVERTISEMENT}),
    )


class IpTunnel(DatagramTunnel):
    """IP packets to and from a relay; a TunnelUser. Give it to ``open_tunnel`` with ip_request().

    A packet may be lost, doubled or reordered on the way, as on any IP path.

    Attributes:
        assigned: all that the relay has assigned to us.
        routes: all that can be reached through the relay.
    """

    def __init__(
        self,
        *,
        on_packets: OnBatch,
        on_changed: Callable[[], None] | None = None,
        on_closed: OnClosed | None = None,
        limits: ClientLimits | None = None,
    ) -> None:
        """Make a tunnel that is not open yet.

        Args:
            on_packets: takes what comes, in the event loop; must neither block nor raise.
            on_changed: called when addresses or routes have changed.
            on_closed: called once when the tunnel is over, also when it never opened.
            limits: how long the relay may take to assign addresses.
        """
        super().__init__(max_bytes=MAX_PACKET_BYTES, on_batch=on_packets, on_closed=on_closed)
        self.assigned: tuple[AddressEntry, ...] = ()
        self.routes: tuple[IpRange, ...] = ()
        self._on_changed = on_changed
        self._limits = limits or ClientLimits()
        self._last_request_id = 0
        self._answered: dict[int, AddressEntry | None] = {}
        """Request ID -> the answer; None while there is none."""
        self._news = asyncio.Event()

    # -- for the user ----------------------------------------------------------------------------

    @property
    def http_version(self) -> str:
        """``"3"``, ``"2"`` or ``"1.1"``; empty before the tunnel is open."""
        return "" if self._stream is None else self._stream.http_version

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The addresses and prefixes that are ours."""
        return tuple(entry.network for entry in self.assigned if not entry.is_refusal)

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet that fits now; 0 once the tunnel is over.

        Grows while the path's MTU is being discovered and may shrink with the path: ask per batch.
        """
        return self._largest_bytes()

    def send_packets(self, packets: Sequence[bytes]) -> int:
        """Send whole IP packets and return how many were queued; the others are counted drops.

        Never blocks and never raises. What is queued leaves at the end of the loop's turn.
        """
        return self._send(packets)

    async def request_addresses(self, wanted: Sequence[IPAddress]) -> tuple[IPNetwork, ...]:
        """Ask for addresses and wait until each is answered; return those that are ours now.

        Args:
            wanted: addresses, or ANY_IPV4 and ANY_IPV6. The relay may give others, or none.

        Raises:
            RelayTimeout: not all answered within ``limits.open_timeout_s``.
            TunnelClosed: the tunnel is over.
        """
        entries: list[AddressEntry] = []
        for address in wanted:
            self._last_request_id += 1  # RFC 9484 section 4.7.2: never used twice
            entries.append(
                AddressEntry(
                    request_id=self._last_request_id,
                    address=address,
                    prefix_length=address.max_prefixlen,
                )
            )
        self._answered.update((entry.request_id, None) for entry in entries)
        if self._stream is not None:
            self._stream.send_capsule(ADDRESS_REQUEST, encode_addresses(entries))
        try:
            async with asyncio.timeout(self._limits.open_timeout_s):
                while not all(self._answered.get(entry.request_id) for entry in entries):
                    if self._closed is not None:
                        raise self._closed
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise RelayTimeout(
                f"the relay assigned no address within {self._limits.open_timeout_s:g} s",
                hint="check that its [connect_ip] has a pool; try again",
            ) from None
        finally:
            for entry in entries:
                self._answered.pop(entry.request_id, None)
        return self.networks

    # -- TunnelUser ------------------------------------------------------------------------------

    def capsule_received(self, capsule: Capsule) -> None:
        """Take addresses or routes; each replaces what was said before.

        Raises:
            WireError: the capsule is malformed.
        """
        if capsule.type == ADDRESS_ASSIGN:
            self.assigned = decode_address_assign(capsule.value)
            for entry in self.assigned:
                if entry.request_id in self._answered:
                    self._answered[entry.request_id] = entry
        elif capsule.type == ROUTE_ADVERTISEMENT:
            self.routes = decode_routes(capsule.value)
        else:
            self._refuse(decode_address_request(capsule.value))
            return
        self._news.set()
        if self._on_changed is not None:
            self._on_changed()

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """Tell whoever waits."""
        self._news.set()
        super().tunnel_closed(closed)

    # -- parts -----------------------------------------------------------------------------------

    def _refuse(self, asked: Sequence[AddressEntry]) -> None:
        """RFC 9484 section 4.7.2: every request is answered; a client has nothing to give."""
        if self._stream is not None:
            refusals = encode_addresses(refused_address(entry) for entry in asked)
            self._stream.send_capsule(ADDRESS_ASSIGN, refusals)
