"""Owns the server's side of the long-term credential mechanism (RFC 8489 section 9.2.4).

Nothing is remembered of a client that has not shown a key: the nonce checks itself. The key is
found by the gate; here it is only seen which one the gate tried with success, because answers are
signed with it.
"""

from dataclasses import dataclass

from fallbacks.turn.nonce import NonceMaker, NonceState
from fallbacks.turn.path import ClientPath, PathKind, TurnSettings
from masque_relay.contract.request import MessageIntegrity
from masque_relay.stun.codepoints import Attribute, ErrorCode, PasswordAlgorithm
from masque_relay.stun.integrity import is_signed_by, user_hash
from masque_relay.stun.message import StunMessage
from masque_relay.stun.nonce_cookie import has_password_algorithms_bit
from masque_relay.stun.values import decode_algorithm, decode_text, encode_algorithms
from masque_relay.wire.errors import WireError

MAX_USERNAME_BYTES = 4_096
"""Deviation: RFC 8489 section 14.3 allows 508 bytes; a bearer token as a user name is longer."""
MAX_REALM_BYTES = 763  # RFC 8489 section 14.9
OFFERED_ALGORITHMS = encode_algorithms((PasswordAlgorithm.MD5, PasswordAlgorithm.SHA256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """The request has not shown who sends it; answer with this code."""

    code: ErrorCode
    with_nonce: bool = True
    """Whether REALM, NONCE and PASSWORD-ALGORITHMS go along."""


class Presented:
    """A credential in good form; whether it is a good one the gate knows.

    Attributes:
        message: the request.
        credential: what the gate is handed.
        key: the key with which the message is signed, once somebody has tried it.
    """

    __slots__ = ("credential", "key", "message")

    def __init__(
        self,
        message: StunMessage,
        *,
        username: str | None,
        name_hash: bytes | None,
        realm: str,
        uses_sha256: bool,
        access_token: bytes | None,
        is_confidential: bool,
    ) -> None:
        self.message = message
        self.key: bytes | None = None
        self.credential = MessageIntegrity(
            username=username,
            user_hash=name_hash,
            realm=realm,
            uses_sha256=uses_sha256,
            access_token=access_token,
            is_confidential=is_confidential,
            is_signed_by=self.is_signed_by,
        )

    @property
    def identity(self) -> bytes:
        """What tells users apart, whether they sent their name or its hash."""
        name_hash = self.credential.user_hash
        if name_hash is not None:
            return name_hash
        return user_hash(self.credential.username or "", self.credential.realm)

    def is_signed_by(self, key: bytes) -> bool:
        """Return whether a key signed the message; remember the one that did."""
        if not is_signed_by(self.message, key):
            return False
        self.key = key
        return True


class LongTermMechanism:
    """Challenges, and reads what comes back."""

    def __init__(self, settings: TurnSettings, nonces: NonceMaker) -> None:
        self.settings = settings
        self._nonces = nonces

    def challenge_attributes(self, path: ClientPath, now_s: float) -> list[tuple[int, bytes]]:
        """Return what a 401 or 438 carries."""
        settings = self.settings
        attributes: list[tuple[int, bytes]] = [
            (Attribute.REALM, settings.realm.encode()),
            (Attribute.NONCE, self._nonces.make(_client_id(path), now_s)),
            (Attribute.PASSWORD_ALGORITHMS, OFFERED_ALGORITHMS),
        ]
        if settings.server_name:
            attributes.append((Attribute.THIRD_PARTY_AUTHORIZATION, settings.server_name.encode()))
        return attributes

    def read(self, message: StunMessage, path: ClientPath, now_s: float) -> Presented | Challenge:
        """Return the credential of a request, or what it has to be answered with."""
        if message.integrity_at is None and message.integrity_sha256_at is None:
            return Challenge(code=ErrorCode.UNAUTHENTICATED)
        username, name_hash = message.get(Attribute.USERNAME), message.get(Attribute.USERHASH)
        realm, nonce = message.get(Attribute.REALM), message.get(Attribute.NONCE)
        if (username is None and name_hash is None) or realm is None or nonce is None:
            return Challenge(code=ErrorCode.BAD_REQUEST, with_nonce=False)
        if self._nonces.check(nonce, _client_id(path), now_s) is not NonceState.GOOD:
            return Challenge(code=ErrorCode.STALE_NONCE)
        try:
            algorithm = _algorithm(message, nonce)
            name = (
                None
                if username is None
                else decode_text(
                    username, max_bytes=MAX_USERNAME_BYTES, section="RFC 8489 section 14.3"
                )
            )
            realm_text = decode_text(
                realm, max_bytes=MAX_REALM_BYTES, section="RFC 8489 section 14.9"
            )
        except WireError:
            return Challenge(code=ErrorCode.BAD_REQUEST, with_nonce=False)
        if realm_text != self.settings.realm:
            return Challenge(code=ErrorCode.UNAUTHENTICATED)
        return Presented(
            message,
            username=name,
            name_hash=name_hash if name is None else None,
            realm=realm_text,
            uses_sha256=algorithm is PasswordAlgorithm.SHA256,
            access_token=message.get(Attribute.ACCESS_TOKEN),
            is_confidential=path.kind is PathKind.TLS,
        )


def _algorithm(message: StunMessage, nonce: bytes) -> PasswordAlgorithm:
    """Return how the key is made; refuse what somebody on the way may have changed.

    Raises:
        WireError: PASSWORD-ALGORITHMS is not what we offered, or only one of the two is there.
    """
    section = "RFC 8489 section 9.2.4"
    offered = message.get(Attribute.PASSWORD_ALGORITHMS)
    chosen = message.get(Attribute.PASSWORD_ALGORITHM)
    if offered is None and chosen is None:
        return PasswordAlgorithm.MD5
    if not has_password_algorithms_bit(nonce) or offered is None or chosen is None:
        raise WireError("PASSWORD-ALGORITHM and -ALGORITHMS go together", section=section)
    if offered != OFFERED_ALGORITHMS:
        raise WireError("PASSWORD-ALGORITHMS is not what was offered", section=section)
    return decode_algorithm(chosen)


def _client_id(path: ClientPath) -> bytes:
    """Return what a nonce is good for: one that was overheard is of no use from elsewhere.

    By UDP that is the 5-tuple. A TCP client has shown that it is at its address; there the nonce of
    the control connection is good for data connections too, as clients of RFC 6062 expect.
    """
    address = path.kind.encode() + path.client.address.packed
    if path.kind is not PathKind.UDP:
        return address
    client_port, server = path.client.port.to_bytes(2, "big"), path.server
    return address + client_port + server.address.packed + server.port.to_bytes(2, "big")
