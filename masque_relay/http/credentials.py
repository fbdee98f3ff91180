"""Owns the reading of credentials from a request: header fields and the client certificate."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence

from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    ClientCertificate,
    Credential,
    MalformedCredential,
)

_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_SCHEME_CHARS = 32  # what MalformedCredential allows; never a whole secret
_FIELD_NAMES = (b"proxy-authorization", b"authorization")
"""The field that names us as a proxy comes first: behind a front the other may be the front's."""


def parse_credentials(
    fields: Iterable[tuple[bytes, bytes]], certificate_chain_der: Sequence[bytes]
) -> tuple[Credential, ...]:
    """Return what a request presents: Proxy-Authorization, Authorization, then the certificate.

    A field that is repeated or cannot be read becomes a MalformedCredential, so that the gate
    refuses it: what was meant as a credential is never ignored.
    """
    lines = [(name, value) for name, value in fields if name in _FIELD_NAMES]
    credentials: list[Credential] = []
    for field_name in _FIELD_NAMES:
        values = [value for name, value in lines if name == field_name]
        if len(values) > 1:
            credentials.append(MalformedCredential(scheme="repeated"))
        elif values:
            credentials.append(parse_authorization(values[0]))
    if certificate_chain_der:
        credentials.append(ClientCertificate(chain_der=tuple(certificate_chain_der)))
    return tuple(credentials)


def parse_authorization(value: bytes) -> Credential:
    """Return the credential of one ``Authorization`` or ``Proxy-Authorization`` value."""
    text = value.decode("latin-1")
    scheme, _, rest = text.partition(" ")
    rest = rest.strip(" ")
    match scheme.lower():
        case "bearer" if _B64TOKEN.fullmatch(rest):
            return BearerToken(token=rest)
        case "basic":
            return _parse_basic(rest)
        case _:
            # A bare secret without a scheme must not reach a log as "the scheme".
            return MalformedCredential(scheme=scheme[:_SCHEME_CHARS] if rest else "")


def presents_proxy_credential(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the request speaks to us as to a proxy (RFC 9110 section 11.7)."""
    return any(name == b"proxy-authorization" for name, _ in fields)


def _parse_basic(text: str) -> BasicPassword | MalformedCredential:
    """Read RFC 7617 user-pass; UTF-8, no control characters."""
    malformed = MalformedCredential(scheme="basic")
    try:
        decoded = base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return malformed
    user, colon, password = decoded.partition(":")
    if not colon or any(character < " " or character == "\x7f" for character in decoded):
        return malformed
    return BasicPassword(user=user, password=password)
