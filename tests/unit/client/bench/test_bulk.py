"""client/bench/bulk.py: how many datagrams are under way, and what counts as back."""

from masque_relay.client.bench.bulk import BURST_COUNT, RECENT_COUNT, BulkFlow
from masque_relay.client.bench.probe import NONCE_BYTES, Probes, answer_to
from tests.unit.client.bench.fakes import FakePath

PROBES = Probes(64, b"n" * NONCE_BYTES)


def flow_on(path: FakePath, under_way_count: int) -> BulkFlow:
    return BulkFlow(path, PROBES, under_way_count)


def back(path: FakePath, *sequences: int) -> list[bytes]:
    found = [answer_to(path.sent[sequence]) for sequence in sequences]
    return [answer for answer in found if answer is not None]


def test_as_many_are_under_way_as_were_asked_for() -> None:
    path = FakePath()
    flow = flow_on(path, BURST_COUNT + 5)

    flow.fill()
    flow.fill()

    assert len(path.sent) == flow.sent_count == BURST_COUNT + 5


def test_each_that_comes_back_makes_room_for_one() -> None:
    path = FakePath()
    flow = flow_on(path, 4)
    flow.fill()

    flow.receive(back(path, 0, 1))

    assert flow.answered_count == 2
    assert flow.sent_count == 6


def test_what_is_older_than_the_newest_answer_takes_no_room() -> None:
    path = FakePath()
    flow = flow_on(path, 4)
    flow.fill()

    flow.receive(back(path, 3))

    assert flow.answered_count == 1
    assert flow.sent_count == 8


def test_late_answer_counts_and_a_second_one_does_not() -> None:
    path = FakePath()
    flow = flow_on(path, 4)
    flow.fill()

    flow.receive(back(path, 3))
    flow.receive(back(path, 1))
    flow.receive(back(path, 1, 3))

    assert flow.answered_count == 2
    assert flow.sent_count == 8


def test_answer_to_what_was_never_sent_is_none() -> None:
    path = FakePath()
    flow = flow_on(path, 2)
    flow.fill()

    flow.receive([PROBES.question(2), PROBES.question(2**63)])

    assert flow.answered_count == 0
    assert flow.sent_count == 2


def test_answers_that_come_much_too_late_are_lost_and_hide_no_later_ones() -> None:
    path = FakePath()
    flow = flow_on(path, 4)
    flow.fill()
    first = back(path, 0)
    while flow.sent_count <= RECENT_COUNT:
        flow.give_up()

    flow.receive(first)
    assert flow.answered_count == 0
    flow.receive(back(path, RECENT_COUNT))
    assert flow.answered_count == 1


def test_full_queue_of_our_own_is_no_loss() -> None:
    path = FakePath(room_count=3)
    flow = flow_on(path, 8)

    flow.fill()
    assert flow.sent_count == 3

    path.room_count = None
    flow.fill()
    assert flow.sent_count == 8
    flow.receive(back(path, *range(8)))
    assert flow.answered_count == 8


def test_silent_flow_that_is_given_up_fills_up_again() -> None:
    path = FakePath()
    flow = flow_on(path, 3)
    flow.fill()

    flow.give_up()

    assert flow.sent_count == 6
    assert flow.answered_count == 0


def test_stopped_flow_sends_nothing_more_and_still_counts() -> None:
    path = FakePath()
    flow = flow_on(path, 3)
    flow.fill()
    flow.stop()

    flow.receive(back(path, 0, 1, 2))

    assert flow.sent_count == 3
    assert flow.answered_count == 3
