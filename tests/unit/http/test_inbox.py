"""What waits for an application's receive()."""

from collections.abc import Sequence

import pytest

from masque_relay.contract.counters import HttpCounters
from masque_relay.http.inbox import MAX_BODY_MESSAGE_BYTES, Inbox
from masque_relay.http.limits import HttpLimits
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import WireError


class Made(Inbox):
    """An inbox that shows its credit and its counters."""

    def __init__(self, *, is_tunnel: bool = False, content_length: int | None = None) -> None:
        self.credit: list[int] = []
        self.counted = HttpCounters()
        super().__init__(
            limits=HttpLimits(max_capsule_bytes=100),
            counters=self.counted,
            consume=self.credit.append,
            content_length=content_length,
            is_tunnel=is_tunnel,
        )


def bodies(inbox: Inbox) -> list[bytes]:
    found: list[bytes] = []
    while (message := inbox.take()) is not None:
        found.append(message["body"])
        if not message["more_body"]:
            break
    return found


class TestBody:
    def test_small_chunks_are_joined_large_ones_are_not(self) -> None:
        inbox = Made()
        chunks: Sequence[bytes] = [b"a", b"b", bytes(MAX_BODY_MESSAGE_BYTES), b"c"]
        for chunk in chunks:
            inbox.push_data(chunk)
        inbox.push_end()

        assert bodies(inbox) == [b"ab", bytes(MAX_BODY_MESSAGE_BYTES), b"c"]
        assert sum(inbox.credit) == MAX_BODY_MESSAGE_BYTES + 3

    def test_end_comes_once(self) -> None:
        inbox = Made()
        inbox.push_end()

        assert inbox.take() == {"type": "http.request", "body": b"", "more_body": False}
        assert inbox.take() is None

    def test_end_after_the_last_byte_was_taken_comes_alone(self) -> None:
        inbox = Made()
        inbox.push_data(b"x")
        first = inbox.take()
        inbox.push_end()

        assert first is not None
        assert first["more_body"] is True
        assert bodies(inbox) == [b""]

    def test_more_than_announced_is_refused_and_its_credit_returned(self) -> None:
        inbox = Made(content_length=3)
        inbox.push_data(b"abc")

        with pytest.raises(WireError):
            inbox.push_data(b"d")
        assert inbox.credit == [1]

    def test_less_than_announced_is_refused(self) -> None:
        inbox = Made(content_length=3)
        inbox.push_data(b"ab")

        with pytest.raises(WireError):
            inbox.push_end()

    def test_discarded_bytes_are_consumed_at_once(self) -> None:
        inbox = Made()
        inbox.push_data(b"abc")
        inbox.discard()
        inbox.push_data(b"de")

        assert inbox.credit == [3, 2]
        assert inbox.take() is None


class TestTunnel:
    def test_nothing_comes_out_before_it_opens(self) -> None:
        inbox = Made(is_tunnel=True)
        inbox.push_data(b"x")
        inbox.push_datagrams([b"y"])
        inbox.push_end()

        assert inbox.take() is None
        assert not inbox.credit

    @pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000])
    def test_capsules_come_whole_however_they_arrive(self, step: int) -> None:
        wire = encode_capsule(0, b"\0first") + encode_capsule(0x99, b"?" * 50)
        wire += encode_capsule(0x11, b"second") + encode_capsule(0, b"")
        inbox = Made(is_tunnel=True)
        inbox.open_tunnel(capsule_types={0x11}, batches=False)
        messages = []
        for offset in range(0, len(wire), step):
            inbox.push_data(wire[offset : offset + step])
            while (message := inbox.take()) is not None:
                messages.append((message["type"], message["data"]))

        assert messages == [
            ("http.datagram.receive", b"\0first"),
            ("http.capsule.receive", b"second"),
            ("http.datagram.receive", b""),
        ]
        assert sum(inbox.credit) == len(wire)
        assert inbox.counted.capsules_skipped == 1
        assert inbox.counted.capsules_received == 3

    def test_known_capsule_beyond_the_limit_is_refused(self) -> None:
        inbox = Made(is_tunnel=True)
        inbox.open_tunnel(capsule_types={0x11}, batches=False)
        inbox.push_data(encode_capsule(0x11, bytes(101)))

        with pytest.raises(WireError):
            inbox.take()

    def test_capsule_datagrams_come_as_batches_of_one_where_batches_were_asked_for(self) -> None:
        inbox = Made(is_tunnel=True)
        inbox.open_tunnel(capsule_types=(), batches=True)
        inbox.push_data(encode_capsule(0, b"\0a"))

        assert inbox.take() == {"type": "http.datagram.receive", "batch": [b"\0a"]}

    def test_losses_after_the_opening_are_counted_on_their_own(self) -> None:
        inbox = Made(is_tunnel=True)
        inbox.open_tunnel(capsule_types=(), batches=True)
        inbox.push_datagrams([b"x"] * 300)

        message = inbox.take()
        assert message is not None
        assert len(message["batch"]) == 256
        assert inbox.counted.unread_datagrams_dropped == 44
        assert inbox.counted.early_datagrams_dropped == 0


class TestDisconnect:
    def test_it_is_all_that_is_left_and_the_first_reason_stays(self) -> None:
        inbox = Made()
        inbox.push_data(b"x")
        inbox.disconnect(code=0x10C, reason="peer_reset")
        inbox.disconnect(code=None, reason="other")

        for _ in range(2):
            assert inbox.take() == {
                "type": "http.disconnect",
                "code": 0x10C,
                "reason": "peer_reset",
            }
        assert inbox.credit == [1]

    def test_splice_report_comes_before_it(self) -> None:
        inbox = Made(is_tunnel=True)
        inbox.disconnect(code=None, reason="x")
        inbox.push_splice_done({"type": "http.splice.done"})

        assert inbox.take() == {"type": "http.splice.done"}
        message = inbox.take()
        assert message is not None
        assert message["type"] == "http.disconnect"
