"""Owns the relay's side of a Ghostwire handshake: HELLO, CHALLENGE, AUTH, and what is proved."""

from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.contract.ghostwire import Exporter
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    CHALLENGE_BYTES,
    FEATURE_BATCH,
    FEATURE_DIRECT,
    VERSION,
    Auth,
    Binding,
    Challenge,
    Hello,
)
from masque_relay.wire.ghostwire_proof import (
    EXPORTER_BYTES,
    EXPORTER_LABEL,
    challenge_value,
    peer_proof,
)

OUR_FEATURES = FEATURE_BATCH | FEATURE_DIRECT

VerifySignature = Callable[[bytes, bytes, bytes], bool]
"""Whether (Ed25519 public key, signature, message) fit together (RFC 8032)."""

_SECTION = "ghostwire: Opening a session"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakePorts:
    """What a handshake needs of the world."""

    verify: VerifySignature
    random_bytes: Callable[[int], bytes]
    wall_s: Callable[[], float]


class RelayHandshake:
    """One handshake. It proves the key; whether the key may come in is the gate's to say.

    Attributes:
        features: what both sides have; 0 until HELLO.
    """

    __slots__ = (
        "_exporter",
        "_nonce",
        "_peer_nonce",
        "_ports",
        "_relay_name",
        "_require_exporter",
        "features",
    )

    def __init__(
        self,
        ports: HandshakePorts,
        *,
        exporter: Exporter | None,
        relay_name: str,
        require_exporter: bool,
    ) -> None:
        self._ports = ports
        self._exporter = exporter
        self._relay_name = relay_name
        self._require_exporter = require_exporter
        self._nonce = b""
        self._peer_nonce: bytes | None = None
        self.features = 0

    def hello(self, hello: Hello) -> Challenge | None:
        """Answer HELLO; None when there is no common version.

        Raises:
            WireError: a second HELLO.
        """
        if self._peer_nonce is not None:
            raise WireError("a second HELLO", section=_SECTION)
        self._peer_nonce = hello.nonce
        if VERSION not in hello.versions:
            return None
        self.features = hello.features & OUR_FEATURES
        self._nonce = self._ports.random_bytes(CHALLENGE_BYTES)
        return Challenge(
            version=VERSION,
            features=OUR_FEATURES,
            nonce=self._nonce,
            time_s=int(self._ports.wall_s()),
        )

    def proves(self, auth: Auth) -> bool:
        """Return whether AUTH's signature is by its key and for this connection.

        Raises:
            WireError: AUTH before HELLO.
        """
        if self._peer_nonce is None:
            raise WireError("AUTH before HELLO", section=_SECTION)
        value = self._channel_value(auth, self._peer_nonce)
        if value is None:
            return False
        message = peer_proof(version=VERSION, binding=auth.binding, channel_value=value)
        return self._ports.verify(auth.peer_id, auth.signature, message)

    def _channel_value(self, auth: Auth, peer_nonce: bytes) -> bytes | None:
        """None where the binding is one that this connection does not have."""
        if auth.binding is Binding.CHALLENGE:
            if self._require_exporter:
                return None
            return challenge_value(
                relay_nonce=self._nonce,
                peer_nonce=peer_nonce,
                peer_id=auth.peer_id,
                relay_name=self._relay_name,
            )
        if self._exporter is None:
            return None
        return self._exporter(EXPORTER_LABEL.encode("ascii"), auth.peer_id, EXPORTER_BYTES)
