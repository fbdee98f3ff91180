"""The book that several workers share: exact over all, and a worker's death forgets its part."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masque_relay.contract.request import Method
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.policy.rules import Rule, RuleLimits, parse_target
from masque_relay.control.quota import OpenRates, QuotaLedger
from masque_relay.control.quota_book import LocalBook, QuotaBook
from masque_relay.control.settings import GateLimits
from masque_relay.control.shared_book import BookShape, SharedBook, make_book_file
from tests.support.gates import NOW_S

ALICE = ("subject", "alice")


def rule(limits: RuleLimits) -> Rule:
    return Rule(
        name="r",
        allow=True,
        who=("*",),
        methods=frozenset({Method.CONNECT_UDP}),
        targets=(parse_target("*"),),
        limits=limits,
    )


@contextmanager
def shared(count: int = 2, *, max_tunnels: int = 16) -> Generator[list[SharedBook]]:
    """Yield the books of so many workers and, last, of their supervisor."""
    shape = BookShape.for_limits(count, max_tunnels=max_tunnels, tracked_count=64)
    descriptor = make_book_file(shape)
    books = [
        SharedBook(os.dup(descriptor), shape, segment=segment)
        for segment in range(shape.segment_count)
    ]
    os.close(descriptor)
    try:
        yield books
    finally:
        for book in books:
            book.close()


def test_a_quota_holds_over_all_workers() -> None:
    limits = GateLimits(max_tunnels=5, tunnels_per_subject=3)
    with shared() as books:
        one, other = (QuotaLedger(limits, book) for book in books[:2])
        assert one.take("alice") is other.take("alice") is one.take("alice") is None
        for ledger in (one, other):
            denial = ledger.take("alice")
            assert denial is not None
            assert denial.reason is DenyReason.TUNNEL_QUOTA
        other.give_back("alice")
        assert one.take("alice") is None
        assert [ledger.take("bob") for ledger in (one, other)] == [None, None]
        assert one.tunnel_count == other.tunnel_count == 5
        denial = other.take("carol")
        assert denial is not None
        assert denial.reason is DenyReason.OVERLOADED


def test_the_cap_of_a_rule_and_the_bytes_of_a_day_hold_over_all_workers() -> None:
    daily = rule(RuleLimits(tunnels=2, bytes_per_subject_per_day=1000))
    with shared() as books:
        one, other = (QuotaLedger(GateLimits(), book) for book in books[:2])
        assert one.take_rule(daily, "alice", NOW_S) is None
        assert other.take_rule(daily, "bob", NOW_S) is None
        assert one.take_rule(daily, "carol", NOW_S) is not None
        one.add_day_bytes(daily, "alice", 600, NOW_S)
        assert not other.day_bytes_used_up(daily, "alice", NOW_S)
        other.add_day_bytes(daily, "alice", 400, NOW_S)
        assert one.day_bytes_used_up(daily, "alice", NOW_S)
        assert not one.day_bytes_used_up(daily, "bob", NOW_S)
        assert not one.day_bytes_used_up(daily, "alice", NOW_S + 86_400)


def test_opens_come_at_one_rate_whichever_worker_they_meet() -> None:
    with shared() as books:
        one, other = (OpenRates(GateLimits(opens_per_s=1.0, open_burst=4), b) for b in books[:2])
        asked = [rates.ask("alice", 100.0) for rates in (one, other) * 3]
        assert [denial is None for denial in asked] == [True] * 4 + [False] * 2
        assert other.ask("alice", 101.0) is None
        assert one.ask("alice", 101.0) is not None
        assert one.ask("bob", 101.0) is None
        one.configure(GateLimits(opens_per_s=1.0, open_burst=5))
        assert one.ask("alice", 101.0) is None


def test_what_a_dead_worker_held_is_forgotten_but_not_the_bytes_it_moved() -> None:
    daily = rule(RuleLimits(bytes_per_subject_per_day=1000))
    with shared() as (first, second, supervisor):
        one, other = QuotaLedger(GateLimits(), first), QuotaLedger(GateLimits(), second)
        one.take("alice")
        one.take_rule(daily, "alice", NOW_S)
        one.add_day_bytes(daily, "alice", 700, NOW_S)
        other.take("alice")
        other.add_day_bytes(daily, "alice", 200, NOW_S)
        with supervisor.exclusive():
            supervisor.clear_segment(0)
        assert other.tunnel_count == 1
        other.add_day_bytes(daily, "alice", 99, NOW_S)
        assert not other.day_bytes_used_up(daily, "alice", NOW_S)
        one.add_day_bytes(daily, "alice", 1, NOW_S)
        assert other.day_bytes_used_up(daily, "alice", NOW_S)


def test_names_come_and_go_without_filling_the_book() -> None:
    with shared(max_tunnels=16) as books:
        ledger = QuotaLedger(GateLimits(max_tunnels=16), books[0])
        for number in range(2_000):
            assert ledger.take(f"s{number}") is None
            if number >= 10:
                ledger.give_back(f"s{number - 10}")
        assert ledger.tunnel_count == 10


def test_a_full_segment_refuses() -> None:
    with shared(max_tunnels=16) as (book, *_):
        ledger = QuotaLedger(GateLimits(max_tunnels=1_000), book)
        denials = [ledger.take(f"s{number}") for number in range(100)]
        assert denials[0] is None
        assert denials[-1] is not None
        assert denials[-1].reason is DenyReason.OVERLOADED


def test_a_crowd_of_subjects_never_fails_and_the_busiest_is_remembered() -> None:
    with shared() as (book, *_):
        book.add_day_bytes(5, ALICE, 10**12)
        for number in range(5_000):
            book.add_day_bytes(5, ("subject", str(number)), 1)
            assert book.take_token(str(number), rate_per_s=1, burst=2, now_s=number) is None
        assert book.day_bytes(5, ALICE) == 10**12


step = st.tuples(
    st.integers(0, 1),
    st.sampled_from("abcdef"),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 3),
)


@settings(max_examples=50)
@given(st.lists(step, max_size=60))
def test_the_shared_book_counts_like_a_local_one(
    steps: list[tuple[int, str, int, bool, int]],
) -> None:
    local, held = LocalBook(64), {0: LocalBook(64), 1: LocalBook(64)}
    with shared(max_tunnels=16) as books:
        for worker, letter, wanted, gives_back, day in steps:
            name = ("subject", letter)
            count = -min(wanted, held[worker].count(name)) if gives_back else wanted
            targets: list[QuotaBook] = [local, held[worker], books[worker]]
            for book in targets:
                book.add(name, count)
            if day >= local._day:
                local.add_day_bytes(day, name, abs(count))
                books[worker].add_day_bytes(day, name, abs(count))
            assert not books[worker].is_full
        for letter in "abcdef":
            for book in books:
                assert book.count(("subject", letter)) == local.count(("subject", letter))
                assert book.day_bytes(local._day, ("subject", letter)) == local.day_bytes(
                    local._day, ("subject", letter)
                )


HOLDER = """
import ast, os, sys
from masque_relay.control.shared_book import BookShape, SharedBook
shape = BookShape(**ast.literal_eval(sys.argv[2]))
book = SharedBook(int(sys.argv[1]), shape, segment=0)
with book.exclusive():
    book.add(("subject", "alice"), 2)
    print("held", flush=True)
    sys.stdin.read()
    os._exit(9)
"""


def test_the_lock_of_a_process_that_dies_is_free() -> None:
    shape = BookShape.for_limits(2, max_tunnels=16, tracked_count=64)
    descriptor = make_book_file(shape)
    command = [sys.executable, "-c", HOLDER, str(descriptor), str(asdict(shape))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor]
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    book = SharedBook(descriptor, shape, segment=2)
    with book.exclusive():
        assert book.count(ALICE) == 2
        book.clear_segment(0)
        assert book.count(ALICE) == 0
    book.close()


@pytest.mark.parametrize("name", [("a", "b\0c"), ("a\0b", "c"), ("a", "b", "c"), ("ab", "c")])
def test_names_that_look_alike_are_counted_apart(name: tuple[str, ...]) -> None:
    with shared() as (book, *_):
        book.add(name, 3)
        for other in [("a", "b\0c"), ("a\0b", "c"), ("a", "b", "c"), ("ab", "c")]:
            assert book.count(other) == (3 if other == name else 0)
