"""Tests of the bad network itself: it must do what the relay's tests rely on."""

import socket

import pytest

from tests.support.impairment import Direction, Impairment, run_impaired_path
from tests.support.netns import NamespaceEnd
from tests.support.udp_echo import run_udp_echo

Ends = tuple[NamespaceEnd, NamespaceEnd]
IP_AND_UDP_BYTES = 28


def connected_socket(end: NamespaceEnd, address: tuple[str, int]) -> socket.socket:
    def connect() -> socket.socket:
        client = socket.socket(type=socket.SOCK_DGRAM)
        client.settimeout(2)
        client.connect(address)
        return client

    return end.call(connect)


def answers(client: socket.socket, payloads: list[bytes]) -> list[bytes]:
    """Send all, then take what comes until nothing has come for a while."""
    for payload in payloads:
        client.send(payload)
    client.settimeout(0.5)
    received: list[bytes] = []
    try:
        while True:
            received.append(client.recv(65_536))
    except TimeoutError:
        return received


def test_fates_are_as_frequent_as_asked_and_the_same_for_the_same_seed() -> None:
    plan = Impairment(loss=0.1, duplicate=0.05, reorder=0.2, delay_s=1, mtu_bytes=1000, seed=5)
    first, second = Direction(plan, "forward"), Direction(plan, "forward")
    fates = [first.offer(bytes(100), 0.0) for _ in range(10_000)]
    assert fates == [second.offer(bytes(100), 0.0) for _ in range(10_000)]
    assert first.counts.lost == pytest.approx(1000, rel=0.2)
    assert first.counts.duplicated == pytest.approx(450, rel=0.2)
    assert first.counts.reordered == pytest.approx(1800, rel=0.2)
    assert first.counts.passed == 10_000 - first.counts.lost + first.counts.duplicated
    assert min(due_s for copies in fates for due_s, _ in copies) == 1
    assert first.offer(bytes(1001), 0.0) == []
    assert first.counts.too_large == 1


def test_a_clean_path_carries_everything_in_order(ends: Ends) -> None:
    client_end, far_end = ends
    with (
        run_impaired_path(client_end.device, far_end.device, Impairment()) as path,
        run_udp_echo(far_end.address, opened_by=far_end.call) as echo,
        connected_socket(client_end, (far_end.address, echo.port)) as client,
    ):
        payloads = [str(number).encode() for number in range(50)]
        assert answers(client, payloads) == payloads
        assert path.forward.counts.passed >= 50
        assert path.backward.counts.lost == 0


def test_a_small_mtu_swallows_what_is_larger(ends: Ends) -> None:
    client_end, far_end = ends
    with (
        run_impaired_path(client_end.device, far_end.device, Impairment(mtu_bytes=1280)) as path,
        run_udp_echo(far_end.address, opened_by=far_end.call) as echo,
        connected_socket(client_end, (far_end.address, echo.port)) as client,
    ):
        fits, too_large = bytes(1280 - IP_AND_UDP_BYTES), bytes(1281 - IP_AND_UDP_BYTES)
        assert answers(client, [too_large, fits]) == [fits]
        assert path.forward.counts.too_large == 1


def test_duplicates_and_losses_show_at_the_far_end(ends: Ends) -> None:
    client_end, far_end = ends
    plan = Impairment(loss=0.3, duplicate=0.3, reorder=0.3, seed=11)
    with (
        run_impaired_path(client_end.device, far_end.device, plan) as path,
        run_udp_echo(far_end.address, opened_by=far_end.call) as echo,
        connected_socket(client_end, (far_end.address, echo.port)) as client,
    ):
        payloads = [str(number).encode() for number in range(200)]
        received = answers(client, payloads)
        assert echo.received_count == path.forward.counts.passed
        assert path.forward.counts.lost > 0
        assert path.forward.counts.duplicated > 0
        assert len(received) == path.backward.counts.passed
        assert received != sorted(received, key=int)
