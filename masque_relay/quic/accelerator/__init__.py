"""Owns the way to the compiled accelerator: whether it is there, and the keys that it works with.

It is optional: ``make accelerator`` compiles it where there is a Rust toolchain, and without it all
goes on in Python. It keeps no state of a connection; see ``src/lib.rs``.
"""

from typing import TYPE_CHECKING

from aioquic.quic.crypto import CryptoContext, derive_key_iv_hp
from aioquic.tls import CipherSuite

if TYPE_CHECKING:
    from masque_relay.quic.accelerator._native import HeaderKey, PacketKey, open_many, seal_many

    _is_compiled = True
else:
    try:
        from masque_relay.quic.accelerator._native import (
            HeaderKey,
            PacketKey,
            open_many,
            seal_many,
        )
    except ImportError:
        _is_compiled = False
        HeaderKey = PacketKey = open_many = seal_many = None
    else:
        _is_compiled = True

__all__ = ["DirectionKeys", "direction_keys", "is_compiled", "open_many", "seal_many"]

_CIPHERS = frozenset((CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384))


def is_compiled() -> bool:
    """Whether connections can use it."""
    return _is_compiled


class DirectionKeys:
    """The keys of one direction of a connection, as the accelerator takes them.

    Made when the first 1-RTT secret of the direction is known; none of it is a copy that could grow
    old unnoticed: the packet key follows aioquic's AEAD object, which a key update replaces.
    """

    __slots__ = ("_aead", "_packet_key", "header_key")

    def __init__(self, header_key: HeaderKey) -> None:
        self.header_key = header_key
        """A key update leaves it as it is (RFC 9001 section 6.1)."""
        self._aead: object = None
        self._packet_key: PacketKey | None = None

    def packet_key(self, context: CryptoContext) -> PacketKey:
        """Return the key of the current key phase."""
        key = self._packet_key
        if key is None or context.aead is not self._aead:
            key = self._packet_key = _packet_key(context)
            self._aead = context.aead
        return key


def direction_keys(context: CryptoContext) -> DirectionKeys | None:
    """Return the keys of a direction that has just got its first; None: not a cipher for us."""
    suite, secret, version = context.cipher_suite, context.secret, context.version
    if not _is_compiled or suite is None or secret is None or version is None:
        return None
    if suite not in _CIPHERS:
        return None
    _, _, header = derive_key_iv_hp(cipher_suite=suite, secret=secret, version=version)
    return DirectionKeys(HeaderKey(header))


def _packet_key(context: CryptoContext) -> PacketKey:
    suite, secret, version = context.cipher_suite, context.secret, context.version
    assert suite is not None  # noqa: S101 - as in direction_keys
    assert secret is not None  # noqa: S101
    assert version is not None  # noqa: S101
    key, iv, _ = derive_key_iv_hp(cipher_suite=suite, secret=secret, version=version)
    return PacketKey(key, iv)
