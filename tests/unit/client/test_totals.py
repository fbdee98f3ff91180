"""Owns the tests of a forward's sums."""

import asyncio

from masque_relay.client.address import make_target
from masque_relay.client.totals import ForwardTotals
from tests.support.client_fakes import ACCEPTED, connection_on_fake


async def test_open_tunnels_are_added_to_a_copy() -> None:
    connection, _ = connection_on_fake()
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
    )
    tunnel = await connection.open_udp(make_target("a.test", 1), authority="r", path="/")
    tunnel.send_batch([b"four", bytes(1_900), bytes(1_800)])
    connection.datagrams_received(0, [b"\0abc"])
    totals = ForwardTotals(sent=10, sent_bytes=100, oversize_largest_bytes=1_850)
    sums = totals.with_tunnels([tunnel])
    assert (sums.sent, sums.sent_bytes) == (11, 104)
    assert (sums.received, sums.received_bytes) == (1, 3)
    assert (sums.oversize, sums.oversize_largest_bytes) == (2, 1_900)
    assert totals == ForwardTotals(sent=10, sent_bytes=100, oversize_largest_bytes=1_850)
