"""OutboxCarrier: whole frames, bounded datagrams, one end."""

from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.outbox_carrier import BUSY_BYTES, OutboxCarrier


def outbox(backlog_bytes: int = 1_000) -> tuple[OutboxCarrier, list[int]]:
    woken: list[int] = []
    return OutboxCarrier(wake=lambda: woken.append(1), backlog_bytes=backlog_bytes), woken


def test_frames_are_taken_whole_and_in_order() -> None:
    carrier, woken = outbox()
    carrier.send_capsule(1, b"a" * 10)
    carrier.send_capsule(2, b"b" * 10)
    carrier.send_datagrams(b"\x04", [b"c" * 10])

    assert len(woken) == 3
    assert carrier.take(24) == b"\x01\x0a" + b"a" * 10 + b"\x02\x0a" + b"b" * 10
    assert carrier.take(1) == b"\x00\x0b\x04" + b"c" * 10, "at least one"
    assert carrier.take(100) == b""
    assert carrier.unsent_bytes == 0


def test_datagrams_beyond_the_backlog_are_dropped_and_frames_are_not() -> None:
    carrier, _ = outbox(backlog_bytes=50)
    sent = carrier.send_datagrams(b"", [b"x" * 30] * 5)
    carrier.send_capsule(1, b"y" * 500)

    assert sent == 2
    assert carrier.dropped_datagrams == 3
    assert carrier.unsent_bytes == 2 * 32 + 503


def test_it_is_busy_when_a_message_is_full() -> None:
    carrier, _ = outbox()
    carrier.send_capsule(1, bytes(BUSY_BYTES))
    assert carrier.is_busy
    carrier.take(1)
    assert not carrier.is_busy


def test_what_was_queued_before_the_end_still_goes_and_nothing_after() -> None:
    carrier, woken = outbox()
    carrier.send_capsule(1, b"last words")
    carrier.finish()
    carrier.finish()
    carrier.send_capsule(1, b"too late")

    assert carrier.end_reason is EndReason.PEER_CLOSED
    assert not carrier.is_aborted
    assert carrier.take(100) == b"\x01\x0alast words"
    assert len(woken) == 2


def test_abort_is_told_once() -> None:
    carrier, _ = outbox()
    carrier.abort(EndReason.BUG)
    carrier.finish()

    assert carrier.is_aborted
    assert carrier.end_reason is EndReason.BUG
