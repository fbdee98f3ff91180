"""Owns the keys of STUN and TURN clients: users, time-limited credentials, third-party tokens.

A client proves a key by an HMAC over its message (RFC 8489 section 9.2); which key that has to be
is found here: a user's digest of name, realm and password; the HMAC of an expiry and a subject
under a shared secret; what an access token carries (RFC 7635); or, through TLS, a bearer token.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.request import MessageIntegrity
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.basic import User
from masque_relay.control.auth.bearer import BearerAuthenticator
from masque_relay.control.auth.principal import CredentialKind, Principal, is_presentable
from masque_relay.control.settings import StunSettings

MIN_SECRET_BYTES = 16  # 128 bits when random
MAX_SECRET_FILE_BYTES = 4096  # no secret is longer: a larger file is the wrong file
MIN_MAC_KEY_BYTES = 10  # coturn's tool makes them of 15; 80 bits can't be guessed online
COTURN_KEY_BYTES = 16
_TOKEN_TAIL = struct.Struct("!QI")  # RFC 7635 section 6.2: timestamp, lifetime
_BEARER_KEY_LABEL = b"ghostwire turn bearer:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimitedCredential:
    """What `ghostctl token turn` prints and a WebRTC application puts into ``iceServers``."""

    username: str
    password: str
    expires_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A key that would prove a principal, or a refusal once it is proved."""

    key: bytes
    outcome: Principal | Denial


def mint_time_limited(secret: bytes, *, subject: str, expires_s: int) -> TimeLimitedCredential:
    """Return the user name and password that prove a subject until a moment (Unix seconds)."""
    username = f"{expires_s}:{subject}"
    return TimeLimitedCredential(
        username=username, password=_rest_password(secret, username), expires_s=expires_s
    )


def turn_keys(user: str, realm: str, password: str) -> tuple[bytes, bytes]:
    """Return the MD5 and the SHA-256 key of a user (RFC 8489 section 9.2.2), for the users file."""
    text = f"{user}:{realm}:{password}".encode()
    return hashlib.md5(text, usedforsecurity=False).digest(), hashlib.sha256(text).digest()


def bearer_key(token: str) -> bytes:
    """Return the key over messages of who sends a bearer token as ACCESS-TOKEN through TLS."""
    return hashlib.sha256(_BEARER_KEY_LABEL + token.encode()).digest()


class StunAuthenticator:
    """Finds the key that a message must be signed with, and who it proves."""

    def __init__(
        self,
        settings: StunSettings,
        *,
        users: Mapping[str, User],
        bearer: BearerAuthenticator | None,
        secrets_now: Iterable[bytes] = (),
        token_keys: Mapping[str, bytes] | None = None,
    ) -> None:
        """Take what was loaded; :func:`load_stun` reads the files."""
        self._settings = settings
        self._users = dict(users) if settings.users else {}
        self._bearer = bearer if settings.bearer else None
        self._secrets = {_digest_id("secret", secret): secret for secret in secrets_now}
        self._token_keys = dict(token_keys or {})
        self._subjects = {entry.kid: entry.subject or entry.kid for entry in settings.token_keys}
        self._names_by_hash: dict[str, dict[bytes, str]] = {}
        self._decoy_key = secrets.token_bytes(16)

    async def authenticate(
        self, credential: MessageIntegrity, *, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        """Return whom the message's signature proves, or why nobody; unknown names too."""
        del source
        candidates = self._candidates(credential, now_s)
        if not candidates:
            credential.is_signed_by(self._decoy_key)
        for candidate in candidates:
            if credential.is_signed_by(candidate.key):
                return candidate.outcome
        return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="unknown user or wrong key")

    def still_trusts(self, principal: Principal) -> bool:
        """Return whether the user, the secret or the token key is still there after a reload."""
        kind, _, _ = principal.key_id.partition(":")
        if kind == "user":
            user = self._users.get(principal.subject)
            return (
                user is not None
                and principal.key_id == _user_key_id(user)
                and principal.groups == user.groups
            )
        if kind == "secret":
            return principal.key_id in self._secrets
        return any(
            principal.key_id == _digest_id("token", key)
            and principal.subject == self._subjects.get(kid, kid)
            for kid, key in self._token_keys.items()
        )

    def _candidates(self, credential: MessageIntegrity, now_s: float) -> list[_Candidate]:
        if credential.access_token is not None:
            return self._by_access_token(credential, now_s)
        name = credential.username
        if name is None:
            name = self._name_of_hash(credential)
        if name is None or not is_presentable(name):
            # A bearer token is longer than a name may be.
            return [] if name is None else self._by_bearer_name(credential, name, now_s)
        user = self._users.get(name)
        if user is not None:
            return self._by_user(user, credential, now_s)
        return self._by_secret(name, credential, now_s) or self._by_bearer_name(
            credential, name, now_s
        )

    def _name_of_hash(self, credential: MessageIntegrity) -> str | None:
        if credential.user_hash is None:
            return None
        names = self._names_by_hash.get(credential.realm)
        if names is None:
            # One realm, that of the listener: the transport refuses others before it asks us.
            names = {
                hashlib.sha256(f"{name}:{credential.realm}".encode()).digest(): name
                for name in self._users
            }
            self._names_by_hash = {credential.realm: names}
        return names.get(credential.user_hash)

    def _by_user(self, user: User, credential: MessageIntegrity, now_s: float) -> list[_Candidate]:
        key = user.turn_sha256 if credential.uses_sha256 else user.turn_md5
        if key is None:
            return []
        if user.expires_s is not None and user.expires_s <= now_s:
            return [_Candidate(key=key, outcome=_expired("the account has ended"))]
        principal = Principal(
            subject=user.name,
            groups=user.groups,
            expires_s=user.expires_s,
            method=CredentialKind.STUN,
            key_id=_user_key_id(user),
        )
        return [_Candidate(key=key, outcome=principal)]

    def _by_secret(self, name: str, credential: MessageIntegrity, now_s: float) -> list[_Candidate]:
        expiry_text, separator, subject = name.partition(":")
        if not (separator and subject and expiry_text.isascii() and expiry_text.isdigit()):
            return []
        if len(expiry_text) > 12:
            return []
        expires_s = int(expiry_text)
        candidates: list[_Candidate] = []
        for key_id, secret in self._secrets.items():
            md5, sha256 = turn_keys(name, credential.realm, _rest_password(secret, name))
            outcome: Principal | Denial = Principal(
                subject=subject,
                token_id=f"turn:{name}" if is_presentable(f"turn:{name}") else None,
                expires_s=float(expires_s),
                method=CredentialKind.STUN,
                key_id=key_id,
            )
            if expires_s <= now_s:
                outcome = _expired("the time-limited credential has expired")
            elif expires_s - now_s > self._settings.max_lifetime_s:
                detail = "valid for longer than is accepted"
                outcome = Denial(reason=DenyReason.CREDENTIAL_INVALID, detail=detail)
            key = sha256 if credential.uses_sha256 else md5
            candidates.append(_Candidate(key=key, outcome=outcome))
        return candidates

    def _by_bearer_name(
        self, credential: MessageIntegrity, token: str, now_s: float
    ) -> list[_Candidate]:
        """A token as its own password, for clients that know user names and passwords only."""
        if self._bearer is None or not credential.is_confidential or token.count(".") != 2:
            return []
        md5, sha256 = turn_keys(token, credential.realm, token)
        key = sha256 if credential.uses_sha256 else md5
        return [_Candidate(key=key, outcome=self._bearer.verify(token, now_s=now_s))]

    def _by_access_token(self, credential: MessageIntegrity, now_s: float) -> list[_Candidate]:
        token = credential.access_token or b""
        kid = credential.username or ""
        shared_key = self._token_keys.get(kid)
        if shared_key is not None:
            server_name = self._settings.server_name or credential.realm
            return self._by_third_party(kid, shared_key, token, server_name, now_s)
        if self._bearer is None or not credential.is_confidential:
            return []
        text = token.decode("ascii", "replace")
        outcome = self._bearer.verify(text, now_s=now_s)
        return [_Candidate(key=bearer_key(text), outcome=outcome)]

    def _by_third_party(
        self, kid: str, shared_key: bytes, token: bytes, server_name: str, now_s: float
    ) -> list[_Candidate]:
        opened = open_access_token(token, shared_key, server_name)
        if opened is None:
            return []
        # RFC 7635 section 4.1.1: timestamp and lifetime bound the use of the key.
        leeway_s = 5.0
        outcome: Principal | Denial = Principal(
            subject=self._subjects.get(kid, kid),
            token_id="turn:" + hashlib.sha256(token).hexdigest()[:32],
            expires_s=opened.expires_s,
            method=CredentialKind.STUN,
            key_id=_digest_id("token", shared_key),
        )
        if opened.expires_s + leeway_s <= now_s or opened.issued_s > now_s + leeway_s:
            outcome = _expired("the access token is not valid now")
        # Clients that stand on coturn's library sign with the first 16 bytes only.
        keys = dict.fromkeys((opened.mac_key, opened.mac_key[:COTURN_KEY_BYTES]))
        return [_Candidate(key=key, outcome=outcome) for key in keys]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What an access token of RFC 7635 carries."""

    mac_key: bytes
    issued_s: float
    expires_s: float


def open_access_token(token: bytes, shared_key: bytes, server_name: str) -> AccessToken | None:
    """Return what is in a self-contained token (RFC 7635 section 6.2), None if it is not ours."""
    if len(token) < 2:
        return None
    nonce_bytes = int.from_bytes(token[:2], "big")
    nonce, sealed = token[2 : 2 + nonce_bytes], token[2 + nonce_bytes :]
    # AES-GCM as RFC 5116 has it: 12 bytes of nonce; the library takes 8 to 128.
    if len(nonce) != nonce_bytes or not 8 <= nonce_bytes <= 16:
        return None
    try:
        plain = AESGCM(shared_key).decrypt(nonce, sealed, server_name.encode())
    except InvalidTag:
        return None
    key_bytes = int.from_bytes(plain[:2], "big")
    if len(plain) != 2 + key_bytes + _TOKEN_TAIL.size or not MIN_MAC_KEY_BYTES <= key_bytes <= 64:
        return None
    timestamp, lifetime_s = _TOKEN_TAIL.unpack_from(plain, 2 + key_bytes)
    issued_s = (timestamp >> 16) + (timestamp & 0xFFFF) / 64_000
    return AccessToken(
        mac_key=plain[2 : 2 + key_bytes], issued_s=issued_s, expires_s=issued_s + lifetime_s
    )


def seal_access_token(
    token: AccessToken, shared_key: bytes, server_name: str, *, nonce: bytes | None = None
) -> bytes:
    """Return a token as an authorization server makes it; its counterpart for tests and tools."""
    nonce = secrets.token_bytes(12) if nonce is None else nonce
    whole_s = int(token.issued_s)
    timestamp = whole_s << 16 | int((token.issued_s - whole_s) * 64_000)
    plain = len(token.mac_key).to_bytes(2, "big") + token.mac_key
    plain += _TOKEN_TAIL.pack(timestamp, int(token.expires_s - token.issued_s))
    sealed = AESGCM(shared_key).encrypt(nonce, plain, server_name.encode())
    return len(nonce).to_bytes(2, "big") + nonce + sealed


def load_stun(
    settings: StunSettings, *, users: Mapping[str, User], bearer: BearerAuthenticator | None
) -> StunAuthenticator:
    """Return an authenticator with the secrets and token keys of the files.

    Raises:
        ConfigError: a file is unusable; all problems at once.
    """
    problems: list[Problem] = []
    shared: list[bytes] = []
    token_keys: dict[str, bytes] = {}
    for path in settings.shared_secret_files:
        try:
            shared.append(load_turn_secret(path))
        except ConfigError as error:
            problems.extend(error.problems)
    for entry in settings.token_keys:
        try:
            token_keys[entry.kid] = _load_token_key(entry.key_file)
        except ConfigError as error:
            problems.extend(error.problems)
        if not is_presentable(entry.kid) or not is_presentable(entry.subject or entry.kid):
            problems.append(Problem(detail="kid or subject is empty, too long or not presentable"))
    if problems:
        raise ConfigError(problems)
    return StunAuthenticator(
        settings, users=users, bearer=bearer, secrets_now=shared, token_keys=token_keys
    )


def load_turn_secret(path: Path) -> bytes:
    """Return the shared secret of a file, without white space at the ends.

    Raises:
        ConfigError: it can't be read or is too short.
    """
    secret = _read(path).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            [
                Problem(
                    file=str(path),
                    detail=f"the secret has {len(secret)} bytes, fewer than {MIN_SECRET_BYTES}",
                    hint=f"make one with: openssl rand -hex 32 > {path.name}",
                )
            ]
        )
    return secret


def _load_token_key(path: Path) -> bytes:
    data = _read(path)
    if len(data) not in (16, 32):
        try:
            data = base64.b64decode(data.strip(), validate=True)
        except binascii.Error:
            data = b""
    if len(data) not in (16, 32):
        detail = "not 16 or 32 bytes of AES key, raw or in base64"
        raise ConfigError([Problem(file=str(path), detail=detail)])
    return data


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        detail = f"can't be read: {error.strerror or error}"
        raise ConfigError([Problem(file=str(path), detail=detail)]) from error
    if len(data) > MAX_SECRET_FILE_BYTES:
        detail = f"larger than {MAX_SECRET_FILE_BYTES} bytes"
        raise ConfigError([Problem(file=str(path), detail=detail)])
    return data


def _rest_password(secret: bytes, username: str) -> str:
    # "A REST API For Access To TURN Services": base64 of HMAC-SHA1, as every WebRTC stack knows it.
    return base64.b64encode(hmac.digest(secret, username.encode(), "sha1")).decode("ascii")


def _user_key_id(user: User) -> str:
    return _digest_id("user", (user.turn_md5 or b"") + b":" + (user.turn_sha256 or b""))


def _digest_id(kind: str, key: bytes) -> str:
    return f"{kind}:{hashlib.sha256(b'turn key id:' + key).hexdigest()}"


def _expired(detail: str) -> Denial:
    return Denial(reason=DenyReason.CREDENTIAL_EXPIRED, detail=detail)
