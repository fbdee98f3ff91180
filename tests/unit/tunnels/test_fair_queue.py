"""FairQueue: senders take turns, a flood pushes out its own."""

from hypothesis import given
from hypothesis import strategies as st

from masque_relay.tunnels.fair_queue import QUANTUM_BYTES, FairQueue


def drain(queue: FairQueue) -> list[tuple[bytes, list[bytes]]]:
    runs = []
    while (run := queue.pop()) is not None:
        runs.append(run)
    return runs


def test_one_senders_datagrams_come_out_in_order_and_together() -> None:
    queue = FairQueue(max_count=10, max_bytes=10_000)
    queue.push(b"a", 0, b"\x01", [b"1", b"2"])
    queue.push(b"a", 0, b"\x01", [b"3"])

    assert drain(queue) == [(b"\x01", [b"1", b"2", b"3"])]
    assert len(queue) == queue.byte_count == 0


def test_two_channels_of_one_sender_are_two_runs() -> None:
    queue = FairQueue(max_count=10, max_bytes=10_000)
    queue.push(b"a", 0, b"\x01", [b"1"])
    queue.push(b"a", 0, b"\x03", [b"2"])

    assert drain(queue) == [(b"\x01", [b"1"]), (b"\x03", [b"2"])]


def test_flood_of_one_sender_costs_another_nothing() -> None:
    queue = FairQueue(max_count=100, max_bytes=100_000)
    for _ in range(1_000):
        queue.push(b"flood", 0, b"F", [bytes(100)])
    dropped = queue.push(b"quiet", 0, b"Q", [b"hello"])

    assert dropped == 1, "one of the flood made room"
    runs = drain(queue)
    assert (b"Q", [b"hello"]) in runs[:2]
    assert sum(len(run) for prefix, run in runs if prefix == b"F") == 99
    assert queue.dropped_count == 901


def test_senders_get_equal_bytes_whatever_their_datagrams_measure() -> None:
    queue = FairQueue(max_count=10_000, max_bytes=10_000_000)
    queue.push(b"small", 0, b"S", [bytes(100)] * 3_000)
    queue.push(b"large", 0, b"L", [bytes(1_200)] * 250)
    sent = {b"S": 0, b"L": 0}
    while min(len(queue), queue.byte_count) and sum(sent.values()) < 300_000:
        prefix, run = queue.pop() or (b"", [])
        sent[prefix] += sum(map(len, run))

    assert abs(sent[b"S"] - sent[b"L"]) <= 2 * (QUANTUM_BYTES + 1_200)


def test_lower_number_goes_first() -> None:
    queue = FairQueue(max_count=10, max_bytes=10_000)
    queue.push(b"a", 5, b"\x01", [b"late"])
    queue.push(b"b", 0, b"\x03", [b"first"])

    assert drain(queue) == [(b"\x03", [b"first"]), (b"\x01", [b"late"])]


def test_bytes_are_bounded_too() -> None:
    queue = FairQueue(max_count=1_000, max_bytes=1_000)
    queue.push(b"a", 0, b"", [bytes(400)] * 5)

    assert queue.byte_count <= 1_000
    assert queue.dropped_count == 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"c"]),
            st.integers(0, 2),
            st.lists(st.binary(max_size=50), min_size=1, max_size=8),
        ),
        max_size=40,
    )
)
def test_nothing_is_lost_but_what_is_counted(
    pushes: list[tuple[bytes, int, list[bytes]]],
) -> None:
    queue = FairQueue(max_count=20, max_bytes=400)
    offered = 0
    for sender, priority, payloads in pushes:
        queue.push(sender, priority, sender, payloads)
        offered += len(payloads)
        assert len(queue) <= 20
        assert queue.byte_count <= 400

    assert sum(len(run) for _, run in drain(queue)) + queue.dropped_count == offered
    assert len(queue) == queue.byte_count == 0


def test_flood_in_one_push_is_cut_before_anybody_has_to_make_room() -> None:
    queue = FairQueue(max_count=4, max_bytes=1_000)
    queue.push(b"calm", 0, b"\x01", [b"hello"])
    dropped = queue.push(b"flood", 0, b"\x02", [b"%d" % number for number in range(10)])

    assert dropped == queue.dropped_count == 7
    assert drain(queue) == [(b"\x01", [b"hello"]), (b"\x02", [b"7", b"8", b"9"])]
