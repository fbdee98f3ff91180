"""Owns the tokens that we issue ourselves: JSON Web Tokens (RFC 7519), signed (RFC 7515)."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import jwt

from masque_relay.control.auth.keys import SigningKey


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
) -> str:
    """Return a signed token that holds from ``now_s`` (seconds since the epoch) for its lifetime.

    Without ``token_id`` a random one is made, so that every token can be revoked by its ``jti``.
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
