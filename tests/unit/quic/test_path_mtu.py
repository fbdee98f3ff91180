"""Path MTU discovery, sans I/O."""

import pytest

from masque_relay.quic.path_mtu import (
    BASE_DATAGRAM_BYTES,
    BLACK_HOLE_HOLD_S,
    MAX_PROBES,
    RAISE_INTERVAL_S,
    PathMtu,
)


def make(*, initial: int = 1_280, ceiling: int = 1_472, is_ipv6: bool = False) -> PathMtu:
    return PathMtu(initial_bytes=initial, ceiling_bytes=ceiling, is_ipv6=is_ipv6)


def climb(mtu: PathMtu, path_bytes: int, now: float = 0.0) -> list[int]:
    """Probe until the search rests, on a path that takes ``path_bytes``; return the sizes."""
    probed: list[int] = []
    while (size := mtu.next_probe_bytes(now)) is not None:
        probed.append(size)
        mtu.probe_sent(size, now + 1)
        if size <= path_bytes:
            assert mtu.probe_acknowledged(size)
        else:
            mtu.probe_lost(size, now)
    return probed


class TestSearch:
    """RFC 8899 section 5."""

    def test_an_ethernet_path_is_climbed_to_its_top(self) -> None:
        mtu = make()
        assert climb(mtu, 1_472) == [1_350, 1_400, 1_452, 1_472]
        assert mtu.current_bytes == 1_472

    def test_ipv6_leaves_twenty_bytes_less(self) -> None:
        mtu = make(is_ipv6=True)
        climb(mtu, 9_000)
        assert mtu.current_bytes == 1_452

    def test_a_smaller_path_costs_three_probes_and_then_a_rest(self) -> None:
        mtu = make()
        assert climb(mtu, 1_360) == [1_350] + [1_400] * MAX_PROBES
        assert mtu.current_bytes == 1_350
        assert mtu.next_probe_bytes(RAISE_INTERVAL_S - 1) is None
        assert mtu.next_probe_bytes(RAISE_INTERVAL_S) == 1_400

    def test_only_one_probe_is_in_flight(self) -> None:
        mtu = make()
        mtu.probe_sent(1_350, 1.0)
        assert mtu.next_probe_bytes(0.5) is None
        assert mtu.deadline_s == 1.0

    def test_a_probe_that_nobody_acknowledges_is_lost_at_its_deadline(self) -> None:
        mtu = make()
        mtu.probe_sent(1_350, 1.0)
        mtu.handle_timer(0.9)
        assert mtu.next_probe_bytes(0.9) is None
        mtu.handle_timer(1.0)
        assert mtu.next_probe_bytes(1.0) == 1_350

    def test_a_late_acknowledgement_still_counts(self) -> None:
        mtu = make()
        mtu.probe_sent(1_350, 1.0)
        mtu.handle_timer(1.0)
        assert mtu.probe_acknowledged(1_350)
        assert mtu.current_bytes == 1_350

    def test_an_acknowledgement_of_a_size_that_is_known_raises_nothing(self) -> None:
        assert not make().probe_acknowledged(1_280)

    def test_loss_of_another_probe_than_the_current_one_is_no_failure(self) -> None:
        mtu = make()
        mtu.probe_sent(1_350, 1.0)
        mtu.probe_lost(1_400, 0.0)
        assert mtu.deadline_s == 1.0


class TestBounds:
    """RFC 9000 sections 14.1 and 18.2."""

    @pytest.mark.parametrize("initial", [0, 1_199, 1_200])
    def test_the_base_is_the_least(self, initial: int) -> None:
        assert make(initial=initial).current_bytes == BASE_DATAGRAM_BYTES

    def test_the_peers_limit_is_never_exceeded(self) -> None:
        mtu = make()
        mtu.limit(1_250)
        assert mtu.current_bytes == 1_250
        assert mtu.next_probe_bytes(0.0) is None

    def test_a_limit_between_two_steps_is_itself_a_step(self) -> None:
        mtu = make()
        mtu.limit(1_375)
        assert climb(mtu, 9_000) == [1_350, 1_375]

    def test_the_operators_ceiling_is_never_exceeded(self) -> None:
        mtu = make(ceiling=1_300)
        assert climb(mtu, 9_000) == [1_300]


class TestBlackHole:
    """RFC 8899 section 4.3."""

    def test_the_size_falls_to_the_base_and_the_search_starts_again_later(self) -> None:
        mtu = make()
        climb(mtu, 1_472)
        assert mtu.black_hole_found(5.0)
        assert mtu.current_bytes == BASE_DATAGRAM_BYTES
        assert mtu.next_probe_bytes(5.0) is None
        assert mtu.next_probe_bytes(5.0 + BLACK_HOLE_HOLD_S) == 1_280

    def test_at_the_base_there_is_nowhere_to_fall(self) -> None:
        mtu = make(initial=1_200)
        assert not mtu.black_hole_found(0.0)

    def test_a_new_path_begins_with_the_initial_size(self) -> None:
        mtu = make()
        climb(mtu, 1_472)
        mtu.restart()
        assert mtu.current_bytes == 1_280
        assert mtu.next_probe_bytes(0.0) == 1_350
