"""Owns the tokens that we issue ourselves: JSON Web Tokens (RFC 7519), signed (RFC 7515)."""

import base64
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt

from masque_relay.contract.errors import ConfigError
from masque_relay.control.auth.keys import (
    SigningKey,
    VerificationKey,
    load_jwks,
    load_public_keys,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenContents:
    """A token as read, its signature NOT checked: for people to look at, never to decide by."""

    header: dict[str, object]
    claims: dict[str, object]


def issue_token(  # noqa: PLR0913 (one keyword per claim reads best)
    key: SigningKey,
    *,
    subject: str,
    audience: str | Sequence[str],
    issuer: str,
    lifetime_s: float,
    now_s: float,
    groups: Sequence[str] = (),
    token_id: str | None = None,
    peer_id: bytes | None = None,
) -> str:
    """Return a signed token that holds from ``now_s`` (seconds since the epoch) for its lifetime.

    Without ``token_id`` a random one is made, so that every token can be revoked by its ``jti``.
    With ``peer_id``, an Ed25519 public key, it is bound to that mesh peer (RFC 7800, RFC 8037).
    """
    issued_at = int(now_s)
    claims: dict[str, object] = {
        "iss": issuer,
        "aud": audience if isinstance(audience, str) else list(audience),
        "sub": subject,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + max(1, int(lifetime_s)),
        "jti": token_id or secrets.token_urlsafe(16),
    }
    if groups:
        claims["groups"] = list(groups)
    if peer_id is not None:
        x = base64.urlsafe_b64encode(peer_id).decode("ascii").rstrip("=")
        claims["cnf"] = {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}}
    return jwt.encode(claims, key.private, algorithm=key.algorithm.value, headers={"kid": key.kid})


def read_token(token: str) -> TokenContents:
    """Return header and claims of a token without checking its signature.

    Raises:
        ValueError: it is not a JSON Web Token.
    """
    try:
        decoded = jwt.decode_complete(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise ValueError(str(error)) from error
    return TokenContents(header=dict(decoded["header"]), claims=dict(decoded["payload"]))


def load_inspection_keys(path: Path) -> tuple[VerificationKey, ...]:
    """Return the public keys of a PEM file or a JWK set, whichever it is.

    Raises:
        ConfigError: it is neither.
    """
    try:
        return load_public_keys(path)
    except ConfigError as pem_error:
        if path.suffix in {".json", ".jwks"}:
            return load_jwks(path)
        raise pem_error from None


def signature_verifies(token: str, keys: Iterable[VerificationKey]) -> bool:
    """Return whether one of the keys signed the token; neither times nor audience count here."""
    for key in keys:
        try:
            jwt.PyJWS().decode(token, key.key, algorithms=[key.algorithm.value])
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        return True
    return False
