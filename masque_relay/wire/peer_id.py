"""Owns the text form of a peer id: an Ed25519 public key in lower-case base32."""

import base64
import binascii

from masque_relay.wire.errors import WireError

PEER_ID_BYTES = 32
PEER_ID_CHARACTERS = 52

_SECTION = "ghostwire: Words"
_PADDING = "===="


def format_peer_id(peer_id: bytes) -> str:
    """Return the 52 characters that stand for the key.

    Raises:
        ValueError: not 32 bytes; a bug of the caller.
    """
    if len(peer_id) != PEER_ID_BYTES:
        message = f"a peer id has {PEER_ID_BYTES} bytes, not {len(peer_id)}"
        raise ValueError(message)
    return base64.b32encode(peer_id).decode("ascii").lower().rstrip("=")


def parse_peer_id(text: str) -> bytes:
    """Return the key that the text stands for; upper and lower case are the same.

    Raises:
        WireError: the text is not 52 characters of base32, or has more than one way to be written.
    """
    try:
        peer_id = base64.b32decode(text.upper() + _PADDING)
    except (binascii.Error, ValueError) as error:
        raise WireError("a peer id is 52 characters of base32", section=_SECTION) from error
    if len(peer_id) != PEER_ID_BYTES or format_peer_id(peer_id) != text.lower():
        raise WireError("a peer id is 52 characters of base32", section=_SECTION)
    return peer_id
