"""Owns bearer tokens: JSON Web Tokens (RFC 7519) checked as RFC 8725 recommends.

The key is chosen by ``kid`` and brings its algorithm and its issuer along; nothing in the token can
change either.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.request import BearerToken
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.keys import (
    VerificationKey,
    load_jwks,
    load_public_keys,
    load_shared_secret,
)
from masque_relay.control.auth.memory import ExpiringMemory
from masque_relay.control.auth.principal import (
    MAX_GROUPS,
    CredentialKind,
    Principal,
    is_presentable,
)
from masque_relay.control.settings import BearerSettings, IssuerSettings
from masque_relay.wire.peer_id import PEER_ID_BYTES

MAX_KEYS_WITHOUT_KID = 4  # signature checks that one token without kid may cost
_MAX_TIME_S = 1e11  # year 5138; later is nonsense and overflows dates


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """A verification key and whose it is."""

    issuer: str
    key: VerificationKey

    @property
    def key_id(self) -> str:
        """The key and whose it is."""
        return f"{self.key.key_id} {self.issuer}"


class _Refused(Exception):  # noqa: N818 (a step of a check, never seen outside)
    """One of the checks failed."""

    def __init__(self, reason: DenyReason, detail: str) -> None:
        super().__init__(detail)
        self.denial = Denial(reason=reason, detail=detail)


class BearerAuthenticator:
    """Checks tokens against the keys that were loaded with it."""

    def __init__(self, settings: BearerSettings, keys: Iterable[IssuerKey]) -> None:
        self._settings = settings
        self._audiences = frozenset(settings.audiences)
        self._by_kid: dict[str, list[IssuerKey]] = {}
        self._without_kid: list[IssuerKey] = []
        self._all: list[IssuerKey] = []
        self._key_ids: set[str] = set()
        for key in keys:
            self._all.append(key)
            self._key_ids.add(key.key_id)
            if key.key.kid is None:
                self._without_kid.append(key)
            else:
                self._by_kid.setdefault(key.key.kid, []).append(key)
        self._verified: ExpiringMemory[Principal] = ExpiringMemory(settings.cache_tokens)

    async def authenticate(
        self, credential: BearerToken, *, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        """Return the token's subject, or why it does not count."""
        del source
        return self.verify(credential.token, now_s=now_s)

    def still_trusts(self, principal: Principal) -> bool:
        """Return whether the issuer still has the key that signed the principal's token."""
        return principal.key_id in self._key_ids

    def verify(self, token: str, *, now_s: float) -> Principal | Denial:
        """Return the token's subject, or why it does not count."""
        if len(token) > self._settings.max_token_bytes:
            return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="token too large")
        if not token.isascii():
            return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="token is not ASCII")
        digest = hashlib.sha256(token.encode("ascii")).digest()
        known = self._verified.get(digest, now_s)
        if known is not None:
            return known
        try:
            principal = self._verify(token, now_s)
        except _Refused as refused:
            return refused.denial
        self._verified.put(digest, principal, expires_s=principal.expires_s or now_s)
        return principal

    def _verify(self, token: str, now_s: float) -> Principal:
        detail = "the signature does not verify"
        for candidate in self._candidates(token):
            claims = _checked_claims(token, candidate.key)
            if claims is None:
                continue
            if claims.get("iss") == candidate.issuer:
                return self._principal(claims, candidate.key_id, now_s)
            detail = "the issuer is missing or not the one that has this key"
        raise _Refused(DenyReason.CREDENTIAL_INVALID, detail)

    def _candidates(self, token: str) -> list[IssuerKey]:
        """Return the keys that the header allows; each is still pinned to its own algorithm."""
        try:
            header: Mapping[str, object] = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "not a JSON Web Token") from error
        if "crit" in header:  # RFC 7515 section 4.1.11: we understand no extension
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "unknown critical header")
        algorithm, kid = header.get("alg"), header.get("kid")
        if kid is None:
            chosen = self._all
        elif isinstance(kid, str):
            chosen = self._by_kid.get(kid, []) + self._without_kid
        else:
            chosen = []
        fitting = [key for key in chosen if key.key.algorithm.value == algorithm]
        if not fitting:
            detail = "no trusted key has this kid and algorithm"
            raise _Refused(DenyReason.CREDENTIAL_INVALID, detail)
        if len(fitting) > MAX_KEYS_WITHOUT_KID:
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "no kid, and too many keys to try")
        return fitting

    def _principal(self, claims: Mapping[str, object], key_id: str, now_s: float) -> Principal:
        self._check_audience(claims.get("aud"))
        expires_s = self._check_times(claims, now_s)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not is_presentable(subject):
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "sub is missing or not presentable")
        token_id = claims.get("jti")
        if token_id is not None and not (isinstance(token_id, str) and is_presentable(token_id)):
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "jti is not presentable")
        return Principal(
            subject=subject,
            groups=self._groups(claims),
            peer_id=_bound_key(claims.get("cnf")),
            token_id=token_id,
            expires_s=expires_s,
            method=CredentialKind.BEARER,
            key_id=key_id,
        )

    def _check_audience(self, claim: object) -> None:
        named: list[object] = cast("list[object]", claim) if isinstance(claim, list) else [claim]
        if any(isinstance(name, str) and name in self._audiences for name in named):
            return
        if claim is None:
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "aud is missing")
        raise _Refused(DenyReason.CREDENTIAL_AUDIENCE, "made for another audience")

    def _check_times(self, claims: Mapping[str, object], now_s: float) -> float:
        expires_s = _time_claim(claims, "exp")
        if expires_s is None:
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "exp is missing")
        if expires_s <= now_s:
            raise _Refused(DenyReason.CREDENTIAL_EXPIRED, "expired")
        longest_s = self._settings.max_lifetime_s
        if longest_s is not None and expires_s - now_s > longest_s:
            raise _Refused(DenyReason.CREDENTIAL_INVALID, "valid for longer than is accepted")
        for name in ("nbf", "iat"):
            at_s = _time_claim(claims, name)
            if at_s is not None and at_s > now_s + self._settings.leeway_s:
                raise _Refused(DenyReason.CREDENTIAL_INVALID, f"{name} is in the future")
        return expires_s

    def _groups(self, claims: Mapping[str, object]) -> tuple[str, ...]:
        name = self._settings.groups_claim
        claim = claims.get(name) if name else None
        if claim is None:
            return ()
        groups: list[str] = []
        for group in cast("list[object]", claim) if isinstance(claim, list) else [None]:
            if not isinstance(group, str) or not is_presentable(group):
                raise _Refused(DenyReason.CREDENTIAL_INVALID, "the groups are not a list of names")
            groups.append(group)
        if len(groups) > MAX_GROUPS:
            raise _Refused(DenyReason.CREDENTIAL_INVALID, f"more than {MAX_GROUPS} groups")
        return tuple(sorted(set(groups)))


def _bound_key(claim: object) -> bytes | None:
    """Return the Ed25519 key of a ``cnf`` claim (RFC 7800 section 3.2, RFC 8037 section 2).

    A token that is bound in another way is refused: whoever bound it did not mean it to be used
    without the proof.
    """
    if claim is None:
        return None
    jwk: object = cast("dict[str, object]", claim).get("jwk") if isinstance(claim, dict) else None
    key = cast("dict[str, object]", jwk) if isinstance(jwk, dict) else {}
    text = key.get("x")
    if key.get("kty") != "OKP" or key.get("crv") != "Ed25519" or not isinstance(text, str):
        raise _Refused(DenyReason.CREDENTIAL_INVALID, "cnf has no Ed25519 key")
    try:
        peer_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise _Refused(DenyReason.CREDENTIAL_INVALID, "the key of cnf is not base64url") from error
    if len(peer_id) != PEER_ID_BYTES:
        raise _Refused(DenyReason.CREDENTIAL_INVALID, "the key of cnf has not 32 bytes")
    return peer_id


def load_bearer(settings: BearerSettings) -> BearerAuthenticator:
    """Return an authenticator with the keys of all issuers.

    Raises:
        ConfigError: a file is unusable, or an issuer or audience is missing; all problems at once.
    """
    problems: list[Problem] = []
    keys: list[IssuerKey] = []
    if not settings.audiences:
        problems.append(Problem(detail="bearer tokens need at least one audience"))
    if not settings.issuers:
        problems.append(Problem(detail="bearer tokens need at least one issuer"))
    for issuer in settings.issuers:
        try:
            keys += (IssuerKey(issuer=issuer.issuer, key=key) for key in load_issuer_keys(issuer))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return BearerAuthenticator(settings, keys)


def load_issuer_keys(settings: IssuerSettings) -> list[VerificationKey]:
    """Return the keys of one issuer.

    Raises:
        ConfigError: a file is unusable, or there is no key at all; all problems at once.
    """
    keys: list[VerificationKey] = []
    problems: list[Problem] = []
    loads = [(load_public_keys, path) for path in settings.key_files]
    loads += [(load_jwks, path) for path in settings.jwks_files]
    if settings.hs256_secret_file is not None:
        loads.append((load_shared_secret, settings.hs256_secret_file))
    for load, path in loads:
        try:
            keys += load(path)
        except ConfigError as error:
            problems.extend(error.problems)
    if not keys and not problems:
        problems.append(Problem(detail=f"issuer {settings.issuer!r} has no key"))
    if problems:
        raise ConfigError(problems)
    return keys


def _checked_claims(token: str, key: VerificationKey) -> Mapping[str, object] | None:
    """Return the claims if the signature verifies with this key and its one algorithm."""
    try:
        # Only the signature: the claims are checked by us, on our clock, in a fixed order.
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm.value],
            options={
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
                "verify_iss": False,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm, RecursionError):
        return None


def _time_claim(claims: Mapping[str, object], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # A bool is an int in Python, and NaN compares false with everything.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < _MAX_TIME_S
    ):
        raise _Refused(DenyReason.CREDENTIAL_INVALID, f"{name} is not a time")
    return float(value)
