"""Owns PeerIdentity: the Ed25519 key that is a peer's name, and the file that holds it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from masque_relay.client.errors import CredentialError
from masque_relay.wire.peer_id import format_peer_id


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A private key and the peer id that it makes."""

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def peer_id(self) -> bytes:
        """The public key, 32 bytes."""
        return self.key.public_key().public_bytes_raw()

    def __str__(self) -> str:
        """Return the peer id as people write it."""
        return format_peer_id(self.peer_id)

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (RFC 8032), 64 bytes."""
        return self.key.sign(message)

    @classmethod
    def generate(cls) -> "PeerIdentity":
        """Return a new identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, file: Path) -> "PeerIdentity":
        """Return the identity of a PEM file.

        Raises:
            CredentialError: there is no such file, others can read it, or it is no Ed25519 key.
        """
        try:
            mode = file.stat().st_mode
            data = file.read_bytes()
        except OSError as error:
            raise CredentialError(
                f"{file}: {error.strerror}", hint="make one with: ghostctl peer id"
            ) from error
        if mode & 0o077:
            raise CredentialError(
                f"{file}: others can read this private key", hint=f"chmod 600 {file}"
            )
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:
            raise CredentialError(f"{file}: not a PEM private key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise CredentialError(
                f"{file}: not an Ed25519 key", hint="make another with: ghostctl peer id"
            )
        return cls(key)

    @classmethod
    def load_or_make(cls, file: Path) -> "PeerIdentity":
        """Return the identity of a file, which is made if it does not exist.

        Raises:
            CredentialError: as :meth:`load`, or the file can't be written.
        """
        if file.exists():
            return cls.load(file)
        identity = cls.generate()
        pem = identity.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as output:
                output.write(pem)
        except OSError as error:
            raise CredentialError(f"{file}: {error.strerror}") from error
        return identity


def verify_signature(peer_id: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether an Ed25519 signature (RFC 8032) is by this key; never raises."""
    try:
        Ed25519PublicKey.from_public_bytes(peer_id).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
