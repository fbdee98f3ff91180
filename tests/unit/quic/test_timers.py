"""One heap of deadlines for all connections."""

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from masque_relay.quic.timers import Deadline, DeadlineHeap


class Owner(Deadline):
    pass


def test_deadlines_come_due_in_order_and_once() -> None:
    heap: DeadlineHeap[Owner] = DeadlineHeap()
    early, late = Owner(), Owner()
    heap.set(late, 2.0)
    heap.set(early, 1.0)
    assert heap.next_s() == 1.0
    assert heap.pop_due(0.5) == []
    assert heap.pop_due(3.0) == [early, late]
    assert heap.pop_due(9.0) == []
    assert heap.next_s() is None


def test_deadline_that_moves_later_is_not_due_at_its_old_time() -> None:
    heap: DeadlineHeap[Owner] = DeadlineHeap()
    owner = Owner()
    heap.set(owner, 1.0)
    heap.set(owner, 5.0)
    assert heap.pop_due(1.0) == []
    assert heap.next_s() == 5.0
    assert heap.pop_due(5.0) == [owner]


def test_deadline_that_moves_earlier_is_due_then() -> None:
    heap: DeadlineHeap[Owner] = DeadlineHeap()
    owner = Owner()
    heap.set(owner, 5.0)
    heap.set(owner, 1.0)
    assert heap.pop_due(1.0) == [owner]
    heap.set(owner, 6.0)
    assert heap.pop_due(5.0) == []
    assert heap.pop_due(6.0) == [owner]


def test_no_deadline_is_never_due() -> None:
    heap: DeadlineHeap[Owner] = DeadlineHeap()
    owner = Owner()
    heap.set(owner, 1.0)
    heap.set(owner, None)
    assert heap.pop_due(9.0) == []
    assert heap.next_s() is None


def test_traffic_does_not_pile_up_entries() -> None:
    heap: DeadlineHeap[Owner] = DeadlineHeap()
    owner = Owner()
    for packet in range(10_000):
        now_s = packet * 0.001
        heap.set(owner, now_s + 120.0)  # idle
        heap.set(owner, now_s + 0.0005)  # acknowledgement
        assert heap.pop_due(now_s + 0.0006) == [owner]
        heap.set(owner, now_s + 120.0)
    assert len(heap) < 5


def test_cancelled_owner_is_released_at_once() -> None:
    heap: DeadlineHeap[Owner] = DeadlineHeap()

    class Weak(Owner):
        pass

    owner = Weak()
    heap.set(owner, 100.0)
    heap.set(owner, 50.0)
    heap.cancel(owner)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    assert heap.pop_due(200.0) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.none(), st.floats(0, 10)), st.floats(0, 2)),
        max_size=60,
    )
)
def test_heap_agrees_with_a_plain_list(steps: list[tuple[int, float | None, float]]) -> None:
    heap: DeadlineHeap[Owner] = DeadlineHeap()
    owners = [Owner() for _ in range(4)]
    model: dict[int, float] = {}
    now_s = 0.0
    for index, after_s, passes_s in steps:
        heap.set(owners[index], None if after_s is None else now_s + after_s)
        if after_s is None:
            model.pop(index, None)
        else:
            model[index] = now_s + after_s
        now_s += passes_s
        next_s = heap.next_s()
        assert not model or (next_s is not None and next_s <= min(model.values()))
        expected = {i for i, due_s in model.items() if due_s <= now_s}
        assert {owners.index(owner) for owner in heap.pop_due(now_s)} == expected
        model = {i: due_s for i, due_s in model.items() if i not in expected}
