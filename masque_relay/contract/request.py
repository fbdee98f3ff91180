"""Owns RelayRequest: what any transport asks of the gate, and the credentials that came with it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.ip_scope import IpScope


class Method(StrEnum):
    """What is asked for, whatever the wire. The values are the policy file's words."""

    CONNECT_UDP = "connect-udp"
    """RFC 9298."""
    BIND_UDP = "bind-udp"
    """draft-ietf-masque-connect-udp-listen."""
    CONNECT_IP = "connect-ip"
    """RFC 9484."""
    CONNECT_TCP = "connect-tcp"
    """Classic CONNECT (RFC 9110 section 9.3.6) and the templated form."""
    GHOSTWIRE = "ghostwire"
    """The mesh's own tunnel."""


class Transport(StrEnum):
    """The way in. The values are metric labels and audit words."""

    HTTP3 = "h3"
    HTTP2 = "h2"
    HTTP1 = "h1"
    QUIC_NATIVE = "quic-native"
    WEBSOCKET = "websocket"
    TURN = "turn"
    DERP = "derp"


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerToken:
    """A token from ``Authorization: Bearer`` or ``Proxy-Authorization: Bearer`` (RFC 6750)."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicPassword:
    """A user name and password from the Basic scheme (RFC 7617)."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A certificate whose private key the TLS handshake proved; the chain is not yet verified."""

    chain_der: tuple[bytes, ...] = field(repr=False)
    """The leaf first, then what the peer sent with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageIntegrity:
    """Proof of a key over a STUN message (RFC 8489 section 9.2); the key itself never travels.

    Whoever knows the key of the named user asks :attr:`is_signed_by`; the transport learns by that
    which key it has to sign its answers with.
    """

    username: str | None
    """As sent; None where only its digest was."""
    user_hash: bytes | None = None
    """SHA-256 of ``username:realm`` (RFC 8489 section 14.4), in the place of the name."""
    realm: str
    """The relay's own realm, which the message repeats."""
    uses_sha256: bool
    """The key is the SHA-256 of ``username:realm:password``; else it is their MD5."""
    access_token: bytes | None = field(default=None, repr=False)
    """A third party's token (RFC 7635 section 6.2), which brings the key along."""
    is_confidential: bool
    """The message came through TLS, so that nobody else has read its user name and token."""
    is_signed_by: Callable[[bytes], bool] = field(repr=False)
    """Whether a key made the message's integrity attribute, in constant time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKey:
    """A key that the transport itself has seen proved, such as DERP's by a box to the relay's."""

    key: bytes
    """X25519 public key, 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedCredential:
    """A credential header that could not be read; the gate refuses it as invalid."""

    scheme: str
    """The scheme as sent, shortened to 32 characters; never the secret."""


Credential = (
    BearerToken
    | BasicPassword
    | ClientCertificate
    | MessageIntegrity
    | NodeKey
    | MalformedCredential
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayRequest:
    """One request for a tunnel, from any transport."""

    request_id: str
    """Made by the front end; in the logs, the audit trail and the ``proxy-status`` details."""
    transport: Transport
    method: Method
    target: Target | None
    """None where the method has no single target."""
    credentials: tuple[Credential, ...]
    """In the order in which they were presented; the first that is present decides."""
    source: Endpoint
    """The peer's address as the socket saw it (or as a trusted front reported it)."""
    ip_scope: IpScope | None = None
    """What CONNECT-IP is limited to; None for every other method."""
    proved_peer_id: bytes | None = None
    """The Ed25519 key that this client has proved to hold, on this connection."""
