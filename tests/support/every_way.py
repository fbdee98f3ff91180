"""Owns the list of ways into a relay, and what the audit trail calls each of them."""

from enum import StrEnum
from typing import assert_never

from masque_relay.client import HttpChoice
from masque_relay.client.mesh.way import WayKind
from masque_relay.contract.request import Transport


class Family(StrEnum):
    """What is spoken. The values are the titles of the pages."""

    MASQUE = "MASQUE"
    GHOSTWIRE = "Ghostwire"
    TURN = "TURN"
    DERP = "DERP"


class Way(StrEnum):
    """Every way in. Whoever adds one is told by the tables what has to be shown of it."""

    MASQUE_H3 = "masque-h3"
    MASQUE_H2 = "masque-h2"
    MASQUE_H1 = "masque-h1"
    GHOSTWIRE_H3 = "ghostwire-h3"
    GHOSTWIRE_QUIC = "ghostwire-quic"
    GHOSTWIRE_H2 = "ghostwire-h2"
    GHOSTWIRE_H1 = "ghostwire-h1"
    GHOSTWIRE_WEBSOCKET = "ghostwire-websocket"
    GHOSTWIRE_BROWSER = "ghostwire-browser"
    """A WebSocket whose token comes in AUTH, because a browser sends no credential with one."""
    GHOSTWIRE_HTTPS = "ghostwire-https"
    TURN_UDP = "turn-udp"
    TURN_TCP = "turn-tcp"
    TURN_TLS = "turn-tls"
    TURN_HTTPS_PORT = "turn-https-port"
    """ALPN ``stun.turn``."""
    TURN_H3_PORT = "turn-h3-port"
    """UDP, beside QUIC."""
    DERP_UPGRADE = "derp-upgrade"
    DERP_WEBSOCKET = "derp-websocket"

    @property
    def family(self) -> Family:
        """What is spoken there."""
        return next(family for family in Family if self.startswith(f"{family.lower()}-"))

    @property
    def http(self) -> HttpChoice:
        """The HTTP version of a MASQUE way."""
        return HttpChoice[self.removeprefix("masque-").upper()]

    @property
    def carrier(self) -> WayKind:
        """The carrier of a Ghostwire way."""
        if self is Way.GHOSTWIRE_BROWSER:
            return WayKind.WEBSOCKET
        return WayKind(self.removeprefix("ghostwire-"))

    @property
    def asks_late(self) -> bool:
        """Whether a Ghostwire session is there before the gate is asked."""
        return self in {Way.GHOSTWIRE_QUIC, Way.GHOSTWIRE_BROWSER}

    @property
    def is_turn_over_tls(self) -> bool:
        """Whether nobody on the way reads what a TURN client shows."""
        return self in {Way.TURN_TLS, Way.TURN_HTTPS_PORT}

    @property
    def audited_as(self) -> tuple[str, str]:
        """Transport and method in the audit trail."""
        match self.family:
            case Family.MASQUE:
                return self.removeprefix("masque-"), "connect-udp"
            case Family.GHOSTWIRE:
                return _AUDITED_CARRIERS[self.carrier].value, "ghostwire"
            case Family.TURN:
                return Transport.TURN.value, "bind-udp"
            case Family.DERP:
                return Transport.DERP.value, "ghostwire"
            case _:
                assert_never(self.family)


_AUDITED_CARRIERS = {
    WayKind.H3: Transport.HTTP3,
    WayKind.QUIC: Transport.QUIC_NATIVE,
    WayKind.H2: Transport.HTTP2,
    WayKind.H1: Transport.HTTP1,
    WayKind.WEBSOCKET: Transport.WEBSOCKET,
    WayKind.HTTPS: Transport.HTTP1,  # requests of whatever HTTP version; our client's is this
}
