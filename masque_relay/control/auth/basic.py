"""Owns user names and passwords: the Basic scheme (RFC 7617) against argon2id hashes (RFC 9106).

A check costs tens of milliseconds and tens of megabytes by design, so it runs in a small pool, with
a bound on how many wait, in all and per source address.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections import Counter, OrderedDict
from collections.abc import Generator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from argon2 import Parameters, PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.request import BasicPassword
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.memory import ExpiringMemory
from masque_relay.control.auth.principal import (
    MAX_GROUPS,
    CredentialKind,
    Principal,
    is_presentable,
)
from masque_relay.control.meter import TokenBucket
from masque_relay.control.settings import BasicSettings
from masque_relay.control.toml_table import TomlSource, TomlTable

MAX_PASSWORD_BYTES = 1024  # argon2 hashes any length; this bounds what a peer makes us hash
MAX_MEMORY_KIB = 262_144  # a hash from the file may cost at most 256 MiB per check
RETRY_AFTER_S = 1
MAX_REMEMBERED_SOURCES = 8192  # addresses that sent passwords; the longest unseen is forgotten

_ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=[0-9]+,t=[0-9]+,p=[0-9]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One entry of the users file."""

    name: str
    password_hash: str = field(repr=False)
    groups: tuple[str, ...] = ()
    expires_s: float | None = None
    """Seconds since the epoch; None: the account does not end."""
    turn_md5: bytes | None = field(default=None, repr=False)
    """MD5 of ``name:realm:password``, the TURN key of most clients: as good as the password."""
    turn_sha256: bytes | None = field(default=None, repr=False)
    """The same with SHA-256 (RFC 8489 section 18.5.1.2)."""


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password, for the users file."""
    # RFC 9106 section 4, second choice, but one lane: a check must not take several cores at once.
    return PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1).hash(password)


class BasicAuthenticator:
    """Checks passwords against the users that were loaded with it."""

    def __init__(self, settings: BasicSettings, users: Mapping[str, User], pool: Executor) -> None:
        """Take the pool in which checks run; its owner closes it."""
        self._settings = settings
        self._users = dict(users)
        self._pool = pool
        self._hasher = PasswordHasher()
        self._decoy_hash = _decoy_hash(users)
        self._pending: Counter[int] = Counter()
        self._failures: OrderedDict[int, TokenBucket] = OrderedDict()
        # Successes are remembered by a keyed digest: of no use to who reads our memory tomorrow.
        self._memory_key = secrets.token_bytes(32)
        self._verified: ExpiringMemory[Principal] = ExpiringMemory(settings.cache_entries)

    @property
    def users(self) -> Mapping[str, User]:
        """The users by name."""
        return self._users

    @property
    def user_count(self) -> int:
        """How many users the file lists."""
        return len(self._users)

    async def authenticate(
        self, credential: BasicPassword, *, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        """Return the user, or why not. An unknown user costs as much time as a wrong password."""
        password = credential.password.encode("utf-8", "surrogatepass")
        if len(password) > MAX_PASSWORD_BYTES or not is_presentable(credential.user):
            return _invalid()
        digest = self._digest(credential.user, password)
        known = self._verified.get(digest, now_s)
        if known is not None:
            return known
        allowance = self._allowance(source.address, now_s)
        if allowance.refill(now_s) < 1:
            return _overloaded("too many wrong passwords from this address")
        good = await self._check_in_turn(credential.user, password, source.address)
        if isinstance(good, Denial):
            return good
        user = self._users.get(credential.user)
        if not good or user is None:
            allowance.take(1)
            return _invalid()
        return self._accept(user, digest, now_s)

    def still_trusts(self, principal: Principal) -> bool:
        """Return whether the user is still there, with the same password and groups."""
        user = self._users.get(principal.subject)
        return (
            user is not None
            and principal.key_id == _key_id(user)
            and principal.groups == user.groups
        )

    def _accept(self, user: User, digest: bytes, now_s: float) -> Principal | Denial:
        if user.expires_s is not None and user.expires_s <= now_s:
            return Denial(reason=DenyReason.CREDENTIAL_EXPIRED, detail="the account has ended")
        principal = Principal(
            subject=user.name,
            groups=user.groups,
            expires_s=user.expires_s,
            method=CredentialKind.BASIC,
            key_id=_key_id(user),
        )
        remember_until_s = now_s + self._settings.cache_ttl_s
        if user.expires_s is not None:
            remember_until_s = min(remember_until_s, user.expires_s)
        self._verified.put(digest, principal, expires_s=remember_until_s)
        return principal

    async def _check_in_turn(self, name: str, password: bytes, address: IPAddress) -> bool | Denial:
        with self._place(address) as place:
            if not place:
                return _overloaded("too many password checks at once")
            try:
                async with asyncio.timeout(self._settings.verify_timeout_s):
                    return await self._verify(name, password)
            except TimeoutError:
                return _overloaded("the password check took too long")

    async def _verify(self, name: str, password: bytes) -> bool:
        user = self._users.get(name)
        password_hash = self._decoy_hash if user is None else user.password_hash
        loop = asyncio.get_running_loop()
        good = await loop.run_in_executor(self._pool, self._check, password_hash, password)
        return good and user is not None

    def _check(self, password_hash: str, password: bytes) -> bool:
        """Run in the pool; argon2 lets go of the interpreter lock meanwhile."""
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _digest(self, user: str, password: bytes) -> bytes:
        name = user.encode("utf-8", "surrogatepass")
        message = len(name).to_bytes(4, "big") + name + password
        return hmac.new(self._memory_key, message, hashlib.sha256).digest()

    def _allowance(self, address: IPAddress, now_s: float) -> TokenBucket:
        """Return how many wrong passwords an address may still send; a /64 counts as one."""
        network = _source_key(address)
        bucket = self._failures.get(network)
        if bucket is None:
            settings = self._settings
            bucket = TokenBucket(
                rate_per_s=settings.failures_per_s, burst=settings.failure_burst, now_s=now_s
            )
            self._failures[network] = bucket
            while len(self._failures) > MAX_REMEMBERED_SOURCES:
                self._failures.popitem(last=False)
        self._failures.move_to_end(network)
        return bucket

    @contextmanager
    def _place(self, address: IPAddress) -> Generator[bool]:
        """Hold one place among the pending checks; yields False if there is none."""
        network = _source_key(address)
        if (
            self._pending.total() >= self._settings.max_pending
            or self._pending[network] >= self._settings.max_pending_per_source
        ):
            if not self._pending[network]:
                del self._pending[network]
            yield False
            return
        self._pending[network] += 1
        try:
            yield True
        finally:
            self._pending[network] -= 1
            if not self._pending[network]:
                del self._pending[network]


def load_basic(settings: BasicSettings, pool: Executor) -> BasicAuthenticator:
    """Return an authenticator with the users of the file.

    Raises:
        ConfigError: the file is unusable; all problems at once.
    """
    return BasicAuthenticator(settings, load_users(settings.users_file), pool)


def load_users(path: Path) -> dict[str, User]:
    """Return the users of a file by name.

    Raises:
        ConfigError: the file is unusable; all problems at once.
    """
    source = TomlSource.open(path)
    users: dict[str, User] = {}
    for name, table in source.root.named_tables("user"):
        password_hash = table.text("password_hash", required=True)
        groups = tuple(text for _, text in table.texts("groups"))
        expires_s = table.instant("expires")
        turn_md5, turn_sha256 = (
            _turn_key(table, "turn_md5", 16),
            _turn_key(table, "turn_sha256", 32),
        )
        if not is_presentable(name) or ":" in name:  # RFC 7617 section 2
            table.problem("a user name has no colon and no control characters")
        if len(groups) > MAX_GROUPS:
            table.problem(f"more than {MAX_GROUPS} groups", "groups")
        table.finish()
        if password_hash is not None and _check_hash(table, password_hash):
            users[name] = User(
                name=name,
                password_hash=password_hash,
                groups=groups,
                expires_s=expires_s,
                turn_md5=turn_md5,
                turn_sha256=turn_sha256,
            )
    source.root.finish()
    source.raise_problems()
    return users


def _turn_key(table: TomlTable, key: str, key_bytes: int) -> bytes | None:
    text = table.text(key)
    if text is None:
        return None
    if not (len(text) == 2 * key_bytes and re.fullmatch("[0-9a-f]+", text)):
        detail = f"not {2 * key_bytes} hexadecimal digits"
        table.problem(detail, key, hint="make one with: ghostctl token turn-key")
        return None
    return bytes.fromhex(text)


def _check_hash(table: TomlTable, password_hash: str) -> bool:
    hint = "make one with: ghostctl key hash-password"
    if not _ARGON2ID.fullmatch(password_hash):
        table.problem("not an argon2id hash", "password_hash", hint=hint)
        return False
    try:
        parameters = extract_parameters(password_hash)
    except InvalidHashError:
        table.problem("not an argon2id hash", "password_hash", hint=hint)
        return False
    if parameters.memory_cost > MAX_MEMORY_KIB:
        detail = f"the hash costs {parameters.memory_cost} KiB, more than {MAX_MEMORY_KIB}"
        table.problem(detail, "password_hash", hint=hint)
        return False
    return True


def _decoy_hash(users: Mapping[str, User]) -> str:
    """Return a hash that nobody's password has, as costly as most of the users' hashes."""
    costs: Counter[tuple[int, int, int]] = Counter()
    chosen: Parameters | None = None
    for user in users.values():
        parameters = extract_parameters(user.password_hash)
        cost = (parameters.memory_cost, parameters.time_cost, parameters.parallelism)
        costs[cost] += 1
        if costs[cost] == max(costs.values()):
            chosen = parameters
    if chosen is None:
        return PasswordHasher().hash(secrets.token_bytes(16))
    hasher = PasswordHasher(
        time_cost=chosen.time_cost,
        memory_cost=chosen.memory_cost,
        parallelism=chosen.parallelism,
        hash_len=chosen.hash_len,
        salt_len=chosen.salt_len,
        type=Type.ID,
    )
    return hasher.hash(secrets.token_bytes(16))


def _source_key(address: IPAddress) -> int:
    """Return what an address is counted by: an IPv4 address or an IPv6 /64 (negative)."""
    return int(address) if isinstance(address, IPv4Address) else -(int(address) >> 64) - 1


def _key_id(user: User) -> str:
    return hashlib.sha256(user.password_hash.encode()).hexdigest()


def _invalid() -> Denial:
    return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="wrong user or password")


def _overloaded(detail: str) -> Denial:
    return Denial(reason=DenyReason.OVERLOADED, detail=detail, retry_after_s=RETRY_AFTER_S)
