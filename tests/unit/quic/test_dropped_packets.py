"""Packets that are dropped without a word are counted, by the fast path and by aioquic alone."""

import pytest

from masque_relay.quic.limits import FastPath, QuicLimits
from tests.support.quic_pair import CLIENT, Pair, pair_with_limits

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture(params=[FastPath.ON, FastPath.OFF])
def pair(request: pytest.FixtureRequest) -> Pair:
    limits = QuicLimits(fast_path=request.param)
    pair = pair_with_limits(server=limits, client=limits)
    pair.settle()
    return pair


def packets_of(pair: Pair, count: int) -> list[bytes]:
    pair.client.send_datagrams(b"", [bytes(1_000)] * count)
    return [p for group, _ in pair.client.packets_to_send(pair.now) for p in group]


def test_forged_packets_with_a_valid_connection_id_are_counted_and_no_more(pair: Pair) -> None:
    (good,) = packets_of(pair, 1)
    before = pair.server_counters.packets_forged
    forged = [good[:9] + bytes([n]) + good[10:-1] + bytes([good[-1] ^ 1]) for n in range(200)]
    pair.server.receive_packets(forged, CLIENT, pair.now)
    assert pair.server_counters.packets_forged == before + 200
    assert pair.server_counters.quic_datagrams_received == 0
    pair.server.receive_packets([good], CLIENT, pair.now)
    assert pair.server_counters.quic_datagrams_received == 1


def test_replayed_packets_are_counted_and_delivered_once(pair: Pair) -> None:
    packets = packets_of(pair, 5)
    before = pair.server_counters.packets_duplicate
    for _ in range(10):
        pair.server.receive_packets(packets, CLIENT, pair.now)
    assert pair.server_counters.packets_duplicate == before + 45
    assert pair.server_counters.quic_datagrams_received == 5
