"""The book of one process forgets what nobody holds."""

from masque_relay.control.quota_book import LocalBook

ALICE = ("subject", "alice")


def take(book: LocalBook, subject: str, now_s: float = 0.0) -> float | None:
    return book.take_token(subject, rate_per_s=2.0, burst=1, now_s=now_s)


def test_a_name_at_zero_is_forgotten() -> None:
    book = LocalBook(10)
    book.add(ALICE, 2)
    assert book.count(ALICE) == 2
    book.add(ALICE, -2)
    assert book.count(ALICE) == 0
    assert not book._counts
    assert not book.is_full


def test_an_older_day_is_forgotten() -> None:
    book = LocalBook(10)
    book.add_day_bytes(1, ALICE, 100)
    assert book.day_bytes(1, ALICE) == 100
    book.add_day_bytes(2, ("subject", "bob"), 1)
    assert book.day_bytes(1, ALICE) == book.day_bytes(2, ALICE) == 0


def test_the_memory_of_rates_is_bounded() -> None:
    book = LocalBook(10)
    for number in range(100):
        take(book, f"s{number}")
    assert len(book._buckets) == 10


def test_a_bucket_says_how_long_to_wait_and_is_full_again_after_a_reload() -> None:
    book = LocalBook(10)
    assert take(book, "alice") is None
    assert take(book, "alice", 0.25) == 0.25
    book.fill_buckets(10)
    assert take(book, "alice", 0.25) is None
