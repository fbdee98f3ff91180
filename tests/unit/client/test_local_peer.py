"""Owns the tests of one local sender: what waits for its tunnel, and where answers go."""

import asyncio

from masque_relay.client.address import make_target
from masque_relay.client.limits import ForwardLimits
from masque_relay.client.local_peer import LocalPeer
from masque_relay.client.totals import ForwardTotals
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.address import Endpoint
from tests.support.client_fakes import (
    ACCEPTED,
    FakeClock,
    FakeRelayTransport,
    FakeSocket,
    connection_on_fake,
)

HERE = Endpoint(address=make_target("127.0.0.1", 1).host, port=1)  # type: ignore[arg-type]


def peer_on_fakes() -> tuple[LocalPeer, FakeSocket, ForwardTotals, FakeClock]:
    socket, totals, clock = FakeSocket(HERE), ForwardTotals(), FakeClock()
    limits = ForwardLimits(pending_datagrams=3, pending_lifetime_s=2.0)
    return LocalPeer(socket, clock=clock, limits=limits, totals=totals), socket, totals, clock


async def open_tunnel(peer: LocalPeer) -> tuple[UdpTunnel, FakeRelayTransport]:
    connection, transport = connection_on_fake()
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
    )
    tunnel = await connection.open_udp(
        make_target("a.test", 1),
        authority="r",
        path="/",
        on_batch=peer.deliver,
        on_closed=peer.tunnel_closed,
    )
    return tunnel, transport


async def test_what_waits_is_bounded_ages_and_leaves_in_order() -> None:
    peer, _, totals, clock = peer_on_fakes()
    peer.wait([b"pushed out", b"too old"], clock.now_s)
    clock.now_s += 3
    peer.wait([b"1", b"2"], clock.now_s)
    tunnel, transport = await open_tunnel(peer)
    peer.opened(tunnel, clock.now_s)
    assert [payload for _, payload in transport.datagrams] == [b"\x001", b"\x002"]
    assert totals.pending_dropped == 2


async def test_giving_up_counts_what_waited() -> None:
    peer, _, totals, clock = peer_on_fakes()
    peer.wait([b"1", b"2"], clock.now_s)
    peer.give_up()
    peer.give_up()
    assert totals.pending_dropped == 2


async def test_answers_go_to_the_source_and_count_as_activity() -> None:
    peer, socket, _, clock = peer_on_fakes()
    peer.source = ("127.0.0.1", 5_000)
    clock.now_s += 40
    peer.deliver([b"r"])
    assert socket.sent == [(b"r", ("127.0.0.1", 5_000))]
    assert peer.last_active_s == clock.now_s


async def test_what_a_closed_tunnel_counted_is_kept() -> None:
    peer, _, totals, clock = peer_on_fakes()
    tunnel, _ = await open_tunnel(peer)
    peer.opened(tunnel, clock.now_s)
    tunnel.send_batch([b"abc", bytes(2_000)])
    tunnel.close()
    assert peer.tunnel is None
    assert (totals.sent, totals.sent_bytes, totals.oversize) == (1, 3, 1)
