"""Owns the table of denials: what a client hears of each reason at each way, and what cannot be.

docs/reference/denials.md is made of it: ``python -m tests.security.every_way``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import fallbacks.derp.server
import masque_relay.control.auth.node_keys
from masque_relay.contract.verdict import DenyReason
from tests.support.every_way import Family, Way

Pair = tuple[DenyReason, Way]

_NOT_ADMITTED = "Health: this relay does not admit this node key"
_USED_UP = "Health: the quota of this node is used up, RESTARTING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What clients hear of one reason, in the words of ``tests.support.knocks``."""

    means: str
    """For people."""
    masque: str
    ghostwire: str
    """Where the gate is asked before there is a session."""
    ghostwire_late: str
    """Where AUTH brings the token."""
    turn: str
    derp: str = ""

    def at(self, way: Way) -> str:
        """Return what is heard at one way unless DIFFERENT knows better; empty for nothing."""
        if way.asks_late:
            return self.ghostwire_late
        words: str = getattr(self, way.family.lower())
        return words


@dataclass(frozen=True, slots=True, kw_only=True)
class Impossible:
    """Why a reason cannot arise at a way."""

    because: str
    module: ModuleType | None = None
    """Where it would have to come from."""
    lacks: str = ""
    """What is not in that module's source, and would be if the reason could arise."""
    instead: DenyReason | None = None
    """What arises when a client tries; a test tries."""


def _unknown(means: str, *, derp: str = "") -> Heard:
    """Return what is heard of a bad credential: the same, whatever is wrong with it."""
    return Heard(
        means=means,
        masque="401 http_request_denied",
        ghostwire="401 http_request_denied",
        ghostwire_late="ERROR UNAUTHENTICATED",
        turn="401 UNAUTHENTICATED",
        derp=derp,
    )


HEARD: Mapping[DenyReason, Heard] = {
    DenyReason.CREDENTIAL_MISSING: _unknown("none was shown"),
    DenyReason.CREDENTIAL_INVALID: _unknown(
        "it is forged, malformed, unknown, or of a kind that is not taken", derp=_NOT_ADMITTED
    ),
    DenyReason.CREDENTIAL_EXPIRED: _unknown("it was good once"),
    DenyReason.CREDENTIAL_AUDIENCE: _unknown("it is good, but made for somebody else's relay"),
    DenyReason.REVOKED: Heard(
        means="an operator took it, or its subject, back",
        masque="401 http_request_denied",
        ghostwire="401 http_request_denied",
        ghostwire_late="ERROR REVOKED",
        turn="401 UNAUTHENTICATED",
        derp=_NOT_ADMITTED,
    ),
    DenyReason.POLICY: Heard(
        means="no rule allows it, or one denies it",
        masque="403 http_request_denied",
        ghostwire="403 http_request_denied",
        ghostwire_late="ERROR DENIED",
        turn="403 FORBIDDEN",
        derp=_NOT_ADMITTED,
    ),
    DenyReason.ADDRESS_PROHIBITED: Heard(
        means="a private, loopback, link-local or metadata address that no rule names",
        masque="403 destination_ip_prohibited",
        ghostwire="CLOSE DENIED",
        ghostwire_late="CLOSE DENIED",
        turn="403 FORBIDDEN",
    ),
    DenyReason.TUNNEL_QUOTA: Heard(
        means="as many tunnels as the subject or its rule may have",
        masque="429 connection_limit_reached",
        ghostwire="429 connection_limit_reached",
        ghostwire_late="ERROR QUOTA",
        turn="486 ALLOCATION_QUOTA_REACHED",
        derp=_USED_UP,
    ),
    DenyReason.OPEN_RATE: Heard(
        means="the subject asks too fast",
        masque="429 http_request_denied",
        ghostwire="429 http_request_denied",
        ghostwire_late="ERROR QUOTA",
        turn="486 ALLOCATION_QUOTA_REACHED",
        derp=_USED_UP,
    ),
    DenyReason.BYTE_QUOTA: Heard(
        means="the bytes of today are used up",
        masque="429 http_request_denied",
        ghostwire="429 http_request_denied",
        ghostwire_late="ERROR QUOTA",
        turn="486 ALLOCATION_QUOTA_REACHED",
        derp=_USED_UP,
    ),
    DenyReason.OVERLOADED: Heard(
        means="the relay has as many tunnels as it takes",
        masque="503 connection_limit_reached",
        ghostwire="503 connection_limit_reached",
        ghostwire_late="ERROR OVERLOADED",
        turn="508 INSUFFICIENT_CAPACITY",
        derp="Health: the relay is full, RESTARTING",
    ),
    DenyReason.DRAINING: Heard(
        means="the relay goes away",
        masque="503 proxy_internal_response",
        ghostwire="503 proxy_internal_response",
        ghostwire_late="ERROR OVERLOADED",
        turn="508 INSUFFICIENT_CAPACITY",
        derp="Health: the relay is going away, RESTARTING",
    ),
}

_PLAIN_TURN = [way for way in Way if way.family is Family.TURN and not way.is_turn_over_tls]
_DERP = [way for way in Way if way.family is Family.DERP]

_READ_BY_ANYBODY = Impossible(
    because="only bearer tokens name an audience, and where everybody on the way can read them "
    "the relay looks at none",
    instead=DenyReason.CREDENTIAL_INVALID,
)
_NODE_KEYS = {
    DenyReason.CREDENTIAL_MISSING: Impossible(
        because="a DERP client asks by showing its node key",
        module=fallbacks.derp.server,
        lacks="credentials=()",
    ),
    DenyReason.CREDENTIAL_EXPIRED: Impossible(
        because="a node key has no end: it is taken off the list",
        module=masque_relay.control.auth.node_keys,
        lacks="DenyReason.CREDENTIAL_EXPIRED",
    ),
    DenyReason.CREDENTIAL_AUDIENCE: Impossible(
        because="a node key names no audience",
        module=masque_relay.control.auth.node_keys,
        lacks="DenyReason.CREDENTIAL_AUDIENCE",
    ),
    DenyReason.ADDRESS_PROHIBITED: Impossible(
        because="DERP reaches node keys, not addresses",
        module=fallbacks.derp.server,
        lacks="target=Target",
    ),
}

DIFFERENT: Mapping[Pair, str] = {
    # Who opens a WebSocket without a credential is taken for a browser, and asked in the session.
    (DenyReason.CREDENTIAL_MISSING, Way.GHOSTWIRE_WEBSOCKET): "ERROR UNAUTHENTICATED",
    **{(DenyReason.CREDENTIAL_AUDIENCE, way): "" for way in _PLAIN_TURN},
}
"""What is not as at the other ways of a column; empty where nothing is said."""

IMPOSSIBLE: Mapping[Pair, Impossible] = {
    **{(DenyReason.CREDENTIAL_AUDIENCE, way): _READ_BY_ANYBODY for way in _PLAIN_TURN},
    **{(reason, way): why for reason, why in _NODE_KEYS.items() for way in _DERP},
}


def heard_at(reason: DenyReason, way: Way) -> str:
    """Return what a client hears; empty where the table has nothing."""
    return DIFFERENT.get((reason, way), HEARD[reason].at(way))


PAIRS: list[Pair] = [
    (reason, way) for reason in DenyReason for way in Way if (reason, way) not in IMPOSSIBLE
]
"""Every other pair: each is shown."""

UNAUDITED: Mapping[Pair, str] = {
    (DenyReason.CREDENTIAL_MISSING, way): (
        "every TURN client begins like this (RFC 8489 section 9.2): the gate is asked when a key "
        "is shown"
    )
    for way in Way
    if way.family is Family.TURN
}
"""What leaves no record in the audit trail, and why."""
