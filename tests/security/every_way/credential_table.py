"""Owns the table of credentials: which kind is taken at which way, and why not at the others.

docs/reference/denials.md has it: ``python -m tests.security.every_way``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    ClientCertificate,
    MessageIntegrity,
    NodeKey,
)
from masque_relay.control.auth.principal import CredentialKind
from tests.support.every_way import Family, Way


class Kind(StrEnum):
    """Every kind of credential, and every form of one. The values are for people."""

    BEARER = "bearer token"
    BOUND_TOKEN = "bearer token bound to a peer's key"
    PASSWORD = "password"
    CERTIFICATE = "client certificate"
    TIME_LIMITED = "time-limited TURN credential"
    TURN_USER = "user with a TURN key"
    TOKEN_AS_NAME = "bearer token as TURN user name"
    ACCESS_TOKEN = "bearer token as ACCESS-TOKEN"
    THIRD_PARTY = "access token of a third party"
    NODE_KEY = "node key on the list"
    VERIFIED_KEY = "node key that the verifier allows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What there is to know of one kind."""

    presented_as: type
    """What a transport hands to the gate."""
    audited_as: CredentialKind
    taken_at: Sequence[Way]
    refused_at: Sequence[Way] = ()
    """Where a client can show it, and is refused; a test tries."""
    refused_because: str = ""
    never_expires: str = ""
    """Why no such credential can be expired; empty where one can."""
    expired_ends_handshake: bool = False
    """TLS refuses an expired one before there is anybody who could be told why."""


_MASQUE = [way for way in Way if way.family is Family.MASQUE]
_GHOSTWIRE = [way for way in Way if way.family is Family.GHOSTWIRE]
_TURN = [way for way in Way if way.family is Family.TURN]
_TURN_OVER_TLS = [way for way in _TURN if way.is_turn_over_tls]
_PLAIN_TURN = [way for way in _TURN if not way.is_turn_over_tls]
_DERP = [way for way in Way if way.family is Family.DERP]
_READ_BY_ANYBODY = "everybody on the way can read it"

TABLE: Mapping[Kind, Row] = {
    Kind.BEARER: Row(
        presented_as=BearerToken,
        audited_as=CredentialKind.BEARER,
        taken_at=[*_MASQUE, *_GHOSTWIRE],
    ),
    Kind.BOUND_TOKEN: Row(
        presented_as=BearerToken,
        audited_as=CredentialKind.BEARER,
        taken_at=_GHOSTWIRE,
        refused_at=_MASQUE,
        refused_because="nobody proves there to hold the key (RFC 7800)",
    ),
    Kind.PASSWORD: Row(
        presented_as=BasicPassword,
        audited_as=CredentialKind.BASIC,
        taken_at=[*_MASQUE, *(way for way in _GHOSTWIRE if not way.asks_late)],
    ),
    Kind.CERTIFICATE: Row(
        presented_as=ClientCertificate,
        audited_as=CredentialKind.MTLS,
        taken_at=[*_MASQUE, *(way for way in _GHOSTWIRE if way is not Way.GHOSTWIRE_BROWSER)],
        expired_ends_handshake=True,
    ),
    Kind.TIME_LIMITED: Row(
        presented_as=MessageIntegrity, audited_as=CredentialKind.STUN, taken_at=_TURN
    ),
    Kind.TURN_USER: Row(
        presented_as=MessageIntegrity, audited_as=CredentialKind.STUN, taken_at=_TURN
    ),
    Kind.TOKEN_AS_NAME: Row(
        presented_as=MessageIntegrity,
        audited_as=CredentialKind.BEARER,
        taken_at=_TURN_OVER_TLS,
        refused_at=_PLAIN_TURN,
        refused_because=_READ_BY_ANYBODY,
    ),
    Kind.ACCESS_TOKEN: Row(
        presented_as=MessageIntegrity,
        audited_as=CredentialKind.BEARER,
        taken_at=_TURN_OVER_TLS,
        refused_at=_PLAIN_TURN,
        refused_because=_READ_BY_ANYBODY,
    ),
    Kind.THIRD_PARTY: Row(
        presented_as=MessageIntegrity, audited_as=CredentialKind.STUN, taken_at=_TURN
    ),
    Kind.NODE_KEY: Row(
        presented_as=NodeKey,
        audited_as=CredentialKind.NODE_KEY,
        taken_at=_DERP,
        never_expires="it is taken off the list",
    ),
    Kind.VERIFIED_KEY: Row(
        presented_as=NodeKey,
        audited_as=CredentialKind.NODE_KEY,
        taken_at=_DERP,
        never_expires="the verifier is asked each time",
    ),
}

UNSAYABLE: Mapping[type, str] = {
    BearerToken: "TURN takes tokens in a form of its own; DERP proves a key",
    BasicPassword: "AUTH has room for a token only; TURN has keys over messages; DERP proves a key",
    ClientCertificate: (
        "TURN asks whoever signs a message, DERP whoever proves a key; a browser that has one is "
        "asked for it in TLS, which is `ghostwire-websocket`"
    ),
    MessageIntegrity: "a signature over a STUN message, which only TURN has",
    NodeKey: "only DERP has such a key proved",
}
"""Why the other ways have no words for a kind: no module of theirs makes such a value."""


def modules_of(way: Way) -> Sequence[str]:
    """Return the packages and modules that make the gate's requests at a way."""
    match way:
        case Way.GHOSTWIRE_QUIC:
            return ("fallbacks/quic_native", "masque_relay/server/mesh.py")
        case Way.GHOSTWIRE_BROWSER:
            return ("fallbacks/websocket", "masque_relay/server/mesh.py")
        case _ if way.family in {Family.MASQUE, Family.GHOSTWIRE}:
            return ("masque_relay/http",)
        case _:
            return (f"fallbacks/{way.family.lower()}",)
