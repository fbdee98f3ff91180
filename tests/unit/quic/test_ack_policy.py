"""A side that only receives keeps no record of its acknowledgements for ever (RFC 9000 13.2.4)."""

import pytest
from aioquic.tls import Epoch

from masque_relay.quic.ack_policy import MAX_UNACKNOWLEDGED_ACKS
from masque_relay.quic.limits import FastPath, QuicLimits
from tests.support.quic_pair import pair_with_limits
from tests.support.quic_worlds import engine


@pytest.mark.parametrize("mode", [FastPath.ON, FastPath.OFF])
def test_records_of_acknowledgements_are_bounded(mode: FastPath) -> None:
    limits = QuicLimits(fast_path=mode)
    pair = pair_with_limits(server=limits, client=limits)
    space = engine(pair.server)._spaces[Epoch.ONE_RTT]
    most = 0
    for _ in range(1_000):
        pair.client.send_datagrams(b"\x00", [b"up"] * 2)
        pair.now += 0.01
        pair.turn()
        most = max(most, len(space.sent_packets))
    assert pair.server_counters.quic_datagrams_received == 2_000
    assert MAX_UNACKNOWLEDGED_ACKS <= most <= MAX_UNACKNOWLEDGED_ACKS + 20


@pytest.mark.parametrize("mode", [FastPath.ON, FastPath.OFF])
def test_a_side_that_only_receives_sends_hardly_anything_else(mode: FastPath) -> None:
    limits = QuicLimits(fast_path=mode)
    pair = pair_with_limits(server=limits, client=limits)
    pings = 0
    for _ in range(600):
        pair.client.send_datagrams(b"\x00", [b"up"])
        pair.now += 0.01
        pair.turn()
        pings += engine(pair.server)._spaces[Epoch.ONE_RTT].ack_eliciting_in_flight
    assert pings <= 600 / MAX_UNACKNOWLEDGED_ACKS * 2
