"""Owns the answers to requests: attributes in, signed bytes out (RFC 8489 section 6.3.1)."""

from collections.abc import Iterable

from masque_relay.stun.codepoints import Attribute, ErrorCode, MessageClass
from masque_relay.stun.integrity import append_integrity
from masque_relay.stun.message import StunMessage, append_fingerprint, encode_message
from masque_relay.stun.values import encode_error, encode_types

Attributes = Iterable[tuple[int, bytes]]


def success(
    request: StunMessage, attributes: Attributes, *, key: bytes | None, software: str = ""
) -> bytes:
    """Return a success response; ``key`` signs it where the request was signed."""
    return _finish(request, MessageClass.SUCCESS, attributes, key, software)


def error(
    request: StunMessage,
    code: ErrorCode,
    attributes: Attributes = (),
    *,
    key: bytes | None = None,
    software: str = "",
) -> bytes:
    """Return an error response; unsigned where the key is not known."""
    listed = [(int(Attribute.ERROR_CODE), encode_error(code)), *attributes]
    return _finish(request, MessageClass.ERROR, listed, key, software)


def unknown_attributes(
    request: StunMessage, kinds: Iterable[int], *, key: bytes | None = None
) -> bytes:
    """Return 420 with the attributes that are not understood (RFC 8489 section 6.3.1)."""
    attributes = [(int(Attribute.UNKNOWN_ATTRIBUTES), encode_types(kinds))]
    return error(request, ErrorCode.UNKNOWN_ATTRIBUTE, attributes, key=key)


def _finish(
    request: StunMessage,
    message_class: MessageClass,
    attributes: Attributes,
    key: bytes | None,
    software: str,
) -> bytes:
    if software:
        attributes = [*attributes, (int(Attribute.SOFTWARE), software.encode())]
    data = encode_message(request.method, message_class, request.transaction_id, attributes)
    if key is not None:
        # RFC 8489 section 9.2.4: the answer has the kind of integrity that the request had.
        sha256 = request.integrity_sha256_at is not None
        data = append_integrity(data, key, sha256=sha256)
    return append_fingerprint(data) if request.has_fingerprint else data
