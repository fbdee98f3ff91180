"""The budget of replies to strangers."""

from fallbacks.turn.budget import BUCKETS, ReplyBudget

ONE, OTHER = b"\xcb\0\x71\x07", b"\xcb\0\x71\x08"


def spend(budget: ReplyBudget, source: bytes, now_s: float, tries: int = 1000) -> int:
    return sum(budget.take(source, now_s) for _ in range(tries))


def test_a_source_has_a_burst_and_then_its_rate() -> None:
    budget = ReplyBudget(per_s=10, burst=50, total_per_s=10_000)
    assert spend(budget, ONE, 100.0) == 50
    assert not budget.has_room(ONE, 100.0)
    assert spend(budget, ONE, 101.0) == 10
    assert spend(budget, ONE, 1000.0) == 50


def test_one_source_does_not_use_up_the_others() -> None:
    budget = ReplyBudget(per_s=10, burst=50, total_per_s=10_000)
    spend(budget, ONE, 100.0)
    others = sum(
        spend(budget, bytes((10, 0, index >> 8, index & 255)), 100.0, 1) for index in range(100)
    )
    assert others >= 95  # one in 4,096 shares a bucket


def test_all_sources_together_have_a_rate() -> None:
    budget = ReplyBudget(per_s=10, burst=50, total_per_s=100)
    taken = sum(
        budget.take(bytes((10, 0, index >> 8, index & 255)), 100.0) for index in range(2000)
    )
    assert taken == 100
    assert budget.take(OTHER, 101.0)


def test_a_flood_of_sources_makes_nothing_grow() -> None:
    budget = ReplyBudget(per_s=10, burst=50, total_per_s=1e9)
    for index in range(20_000):
        budget.take(index.to_bytes(8, "big"), 100.0)
    assert len(budget._tokens) == len(budget._updated_s) == BUCKETS
