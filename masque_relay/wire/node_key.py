"""Owns the text form of a DERP node key: an X25519 public key as ``nodekey:`` and hexadecimal."""

import re

from masque_relay.wire.errors import WireError

NODE_KEY_BYTES = 32
PREFIX = "nodekey:"

_HEX = re.compile(r"[0-9a-f]{64}")


def format_node_key(key: bytes) -> str:
    """Return the text that Tailscale's tools show for a node's public key.

    Raises:
        ValueError: not 32 bytes; a bug of the caller.
    """
    if len(key) != NODE_KEY_BYTES:
        message = f"a node key has {NODE_KEY_BYTES} bytes, not {len(key)}"
        raise ValueError(message)
    return PREFIX + key.hex()


def parse_node_key(text: str) -> bytes:
    """Return the key that the text stands for.

    Raises:
        WireError: it is not ``nodekey:`` and 64 lower-case hexadecimal digits.
    """
    digits = text.removeprefix(PREFIX)
    if digits == text or not _HEX.fullmatch(digits):
        raise WireError("a node key is nodekey: and 64 hexadecimal digits", section="DERP: keys")
    return bytes.fromhex(digits)
