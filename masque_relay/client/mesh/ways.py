"""Owns the list of ways to one relay, in the order in which they are wanted."""

from collections.abc import Sequence
from functools import partial

from masque_relay.client.address import RelayAddress
from masque_relay.client.mesh.http_way import open_http_way
from masque_relay.client.mesh.https_way import open_https_way
from masque_relay.client.mesh.quic_way import open_quic_way
from masque_relay.client.mesh.turn_way import open_turn_way
from masque_relay.client.mesh.way import WayKind, WayOpener
from masque_relay.client.mesh.websocket_way import open_websocket_way
from masque_relay.client.turn.server import TurnRoute
from masque_relay.client.uplink import RelayOptions

DEFAULT_ORDER = (
    WayKind.H3,
    WayKind.QUIC,
    WayKind.H2,
    WayKind.WEBSOCKET,
    WayKind.H1,
    WayKind.HTTPS,
    WayKind.TURN,
)
"""QUIC first, because a lost packet then holds up nobody else; then what TCP-only networks let
through. HTTP/3 before our own ALPN: it looks like the web. TURN last: it costs another server."""


def ways_to(
    address: RelayAddress,
    options: RelayOptions,
    *,
    kinds: Sequence[WayKind] = DEFAULT_ORDER,
    proxy: str | None = None,
    turn: TurnRoute | None = None,
) -> list[tuple[WayKind, WayOpener]]:
    """Return how to open each kind of way.

    Args:
        address: the relay.
        options: what to trust and show.
        kinds: the most wanted first.
        proxy: an HTTP or SOCKS proxy, with its credentials, for the ways that can use one. Where
            there is one, only those ways are there: the network lets nothing else out.
        turn: TURN servers that lead to the relay; None: that way is not there.
    """
    openers: dict[WayKind, WayOpener] = {
        WayKind.QUIC: partial(open_quic_way, address, options),
        WayKind.WEBSOCKET: partial(open_websocket_way, address, options, proxy=proxy),
        WayKind.HTTPS: partial(open_https_way, address, options, proxy=proxy),
    }
    if proxy is None:
        for kind in (WayKind.H3, WayKind.H2, WayKind.H1):
            openers[kind] = partial(open_http_way, kind, address, options)
        if turn is not None:
            openers[WayKind.TURN] = partial(open_turn_way, address, options, route=turn)
    else:
        del openers[WayKind.QUIC]
    return [(kind, openers[kind]) for kind in kinds if kind in openers]
