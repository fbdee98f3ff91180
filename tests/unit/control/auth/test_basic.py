"""Passwords: checked off the loop, in a bounded pool, without telling who exists."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError
from masque_relay.contract.request import BasicPassword
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.basic import (
    BasicAuthenticator,
    User,
    hash_password,
    load_basic,
    load_users,
)
from masque_relay.control.auth.principal import CredentialKind, Principal
from masque_relay.control.settings import BasicSettings
from tests.support.gates import NOW_S

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HASH = CHEAP.hash("correct horse")
SOURCE = Endpoint(address=ip_address("192.0.2.1"), port=1)
SETTINGS = BasicSettings(users_file=Path("users.toml"))
USERS = {"alice": User(name="alice", password_hash=HASH, groups=("staff",))}


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class CountingPool(Executor):
    """Runs at once, in the caller's thread, and counts."""

    def __init__(self) -> None:
        self.hashes: list[str] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.hashes.append(args[0])
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class StuckPool(Executor):
    """Never answers until it is told to."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.futures.append(future)
        return future


async def check(
    basic: BasicAuthenticator,
    user: str = "alice",
    password: str = "correct horse",  # noqa: S107 (of a test)
    *,
    source: Endpoint = SOURCE,
    now_s: float = NOW_S,
) -> Principal | Denial:
    credential = BasicPassword(user=user, password=password)
    return await basic.authenticate(credential, source=source, now_s=now_s)


async def test_the_right_password_names_the_user_and_groups(pool: Executor) -> None:
    principal = await check(BasicAuthenticator(SETTINGS, USERS, pool))
    assert isinstance(principal, Principal)
    assert (principal.subject, principal.groups) == ("alice", ("staff",))
    assert principal.method is CredentialKind.BASIC


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("Alice", "correct horse"),
        ("bob", "correct horse"),
        ("", "correct horse"),
        ("alice", "x" * 1025),
        ("alice", "\udcff"),
        ("a\nb", "x"),
    ],
)
async def test_everything_else_is_refused_in_the_same_words(
    pool: Executor, user: str, password: str
) -> None:
    denial = await check(BasicAuthenticator(SETTINGS, USERS, pool), user, password)
    assert denial == Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="wrong user or password")


async def test_an_unknown_user_costs_a_hash_of_the_same_price() -> None:
    pool = CountingPool()
    basic = BasicAuthenticator(SETTINGS, USERS, pool)
    await check(basic, "nobody", "x")
    await check(basic, "alice", "x")
    parameters = [hashed.split("$")[3] for hashed in pool.hashes]
    assert parameters == ["m=8,t=1,p=1", "m=8,t=1,p=1"]
    assert pool.hashes[0] != HASH


async def test_a_success_is_remembered_for_a_while_and_a_failure_is_not() -> None:
    pool = CountingPool()
    basic = BasicAuthenticator(SETTINGS, USERS, pool)
    for now_s in (NOW_S, NOW_S + 299, NOW_S + 300):
        assert isinstance(await check(basic, now_s=now_s), Principal)
    assert len(pool.hashes) == 2
    for _ in range(2):
        assert isinstance(await check(basic, password="wrong"), Denial)
    assert len(pool.hashes) == 4


async def test_a_guesser_runs_dry_and_who_is_remembered_or_elsewhere_does_not_mind() -> None:
    pool = CountingPool()
    settings = replace(SETTINGS, failure_burst=3, failures_per_s=0.5)
    basic = BasicAuthenticator(settings, USERS, pool)
    assert isinstance(await check(basic), Principal)
    denials = [await check(basic, password=f"guess {number}") for number in range(5)]
    reasons = [denial.reason for denial in denials if isinstance(denial, Denial)]
    assert reasons == [DenyReason.CREDENTIAL_INVALID] * 3 + [DenyReason.OVERLOADED] * 2
    assert len(pool.hashes) == 4
    assert isinstance(await check(basic), Principal)
    other = Endpoint(address=ip_address("2001:db8::1"), port=1)
    assert isinstance(await check(basic, password="guess", source=other), Denial)
    assert len(pool.hashes) == 5
    await check(basic, password="guess", now_s=NOW_S + 2)
    assert len(pool.hashes) == 6


async def test_a_whole_ipv6_64_counts_as_one_guesser() -> None:
    pool = CountingPool()
    basic = BasicAuthenticator(replace(SETTINGS, failure_burst=3), USERS, pool)
    for number in range(10):
        source = Endpoint(address=ip_address(f"2001:db8::{number:x}"), port=1)
        await check(basic, password="guess", source=source)
    assert len(pool.hashes) == 3


async def test_an_account_ends_also_for_who_is_remembered(pool: Executor) -> None:
    users = {"alice": replace(USERS["alice"], expires_s=NOW_S + 10)}
    basic = BasicAuthenticator(SETTINGS, users, pool)
    principal = await check(basic)
    assert isinstance(principal, Principal)
    assert principal.expires_s == NOW_S + 10
    late = await check(basic, now_s=NOW_S + 10)
    assert isinstance(late, Denial)
    assert late.reason is DenyReason.CREDENTIAL_EXPIRED


async def test_the_check_does_not_run_on_the_event_loop(
    pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    basic = BasicAuthenticator(SETTINGS, USERS, pool)
    threads: list[threading.Thread] = []
    real = basic._check

    def noting(password_hash: str, password: bytes) -> bool:
        threads.append(threading.current_thread())
        return real(password_hash, password)

    monkeypatch.setattr(basic, "_check", noting)
    await check(basic)
    assert threads
    assert threads[0] is not threading.main_thread()


async def test_a_check_that_takes_too_long_is_given_up_as_overloaded() -> None:
    pool = StuckPool()
    settings = replace(SETTINGS, verify_timeout_s=0.01)
    denial = await check(BasicAuthenticator(settings, USERS, pool))
    assert isinstance(denial, Denial)
    assert denial.reason is DenyReason.OVERLOADED
    assert pool.futures[0].cancelled()


async def test_waiting_checks_are_bounded_in_all_and_per_source() -> None:
    pool = StuckPool()
    basic = BasicAuthenticator(
        replace(SETTINGS, max_pending=3, max_pending_per_source=2), USERS, pool
    )
    other = Endpoint(address=ip_address("192.0.2.2"), port=1)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(check(basic)) for _ in range(2)]
        await asyncio.sleep(0)
        third = await check(basic)
        assert isinstance(third, Denial)
        assert third.reason is DenyReason.OVERLOADED
        assert third.retry_after_s
        waiting.append(group.create_task(check(basic, source=other)))
        await asyncio.sleep(0)
        assert isinstance(await check(basic, source=other), Denial)
        for future in pool.futures:
            future.set_result(True)
    assert [type(task.result()) for task in waiting] == [Principal] * 3
    assert not basic._pending


async def test_trust_ends_with_the_user_the_password_or_the_groups(pool: Executor) -> None:
    alice = await check(BasicAuthenticator(SETTINGS, USERS, pool))
    assert isinstance(alice, Principal)
    for users, trusted in (
        (USERS, True),
        ({}, False),
        ({"alice": replace(USERS["alice"], password_hash=CHEAP.hash("new"))}, False),
        ({"alice": replace(USERS["alice"], groups=())}, False),
    ):
        assert BasicAuthenticator(SETTINGS, users, pool).still_trusts(alice) is trusted


def test_the_users_file_is_read(tmp_path: Path, pool: Executor) -> None:
    file = tmp_path / "users.toml"
    file.write_text(
        f'[user.alice]\npassword_hash = "{HASH}"\ngroups = ["staff"]\n'
        f'[user."bob@example.org"]\npassword_hash = "{HASH}"\nexpires = 2030-01-01T00:00:00Z\n'
    )
    users = load_users(file)
    assert users["alice"].groups == ("staff",)
    assert users["bob@example.org"].expires_s == 1_893_456_000
    assert HASH not in repr(users)
    assert load_basic(replace(SETTINGS, users_file=file), pool).user_count == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[user.alice]\n", "password_hash is missing"),
        ('[user.alice]\npassword_hash = "secret"\n', "not an argon2id hash"),
        (f'[user.alice]\npassword_hash = "{HASH.replace("argon2id", "argon2i")}"\n', "not an arg"),
        (f'[user.alice]\npassword_hash = "{HASH.replace("m=8,", "m=999999,")}"\n', "more than"),
        (f'[user."a:b"]\npassword_hash = "{HASH}"\n', "has no colon"),
        (f'[user.alice]\npassword_hash = "{HASH}"\ngroup = ["x"]\n', "did you mean 'groups'"),
        ("[users.alice]\n", "did you mean 'user'"),
    ],
)
def test_a_bad_users_file_is_refused_without_showing_hashes(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "users.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_users(file)
    assert "secret" not in str(caught.value)
    assert "$" not in str(caught.value)


def test_a_made_hash_verifies() -> None:
    assert PasswordHasher().verify(hash_password("p"), "p")
