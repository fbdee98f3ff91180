"""Owns a way to an echo that a test holds in its hands."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from masque_relay.client.bench.path import Receive


class FakePath:
    """An EchoPath that records what is sent; the test answers.

    Attributes:
        sent: every datagram that it took.
        room_count: how many it still takes; None for any number.
    """

    def __init__(self, *, room_count: int | None = None) -> None:
        self.sent: list[bytes] = []
        self.room_count = room_count

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        taken = payloads if self.room_count is None else payloads[: self.room_count]
        if self.room_count is not None:
            self.room_count -= len(taken)
        self.sent += taken
        return len(taken)

    @contextmanager
    def receiving(self, receive: Receive) -> Generator[None]:
        del receive
        yield

    def check(self) -> None:
        pass
