"""Owns ServerBox: the server's X25519 key, and the NaCl boxes that clients and it exchange."""

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from fallbacks.derp.wire import NONCE_BYTES

KEY_BYTES = 32


class ServerBox:
    """Opens what clients seal for us, and seals for them.

    Attributes:
        public_key: what clients know us by; 32 bytes.
    """

    __slots__ = ("_private_key", "public_key")

    def __init__(self, private_key: bytes) -> None:
        """Take a private key of 32 bytes."""
        self._private_key = PrivateKey(private_key)
        self.public_key = bytes(self._private_key.public_key)

    def open(self, client_key: bytes, sealed: bytes) -> bytes | None:
        """Return what a client sealed; None where the box is not by that key for us.

        Args:
            client_key: 32 bytes, of the sender.
            sealed: the nonce, then the box.
        """
        try:
            box = Box(self._private_key, PublicKey(client_key))
            return box.decrypt(sealed[NONCE_BYTES:], sealed[:NONCE_BYTES])
        except (CryptoError, ValueError):  # a key of low order is a ValueError or a CryptoError
            return None

    def seal(self, client_key: bytes, text: bytes) -> bytes:
        """Return the nonce and the box of a text for a client."""
        return bytes(Box(self._private_key, PublicKey(client_key)).encrypt(text))
