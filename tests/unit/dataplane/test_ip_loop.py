"""The loop egress of CONNECT-IP."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.dataplane.ip_loop import QUEUE_PACKETS, LoopAttachment, LoopEgress
from masque_relay.dataplane.ip_pool import NetworkPool
from tests.support.http_fakes import FakeLease
from tests.support.ip_packets import icmp_kind, ipv4, ipv6, ping4, ping6, udp
from tests.support.ip_rig import NOBODY4, NOBODY6, POOL4, POOL6
from tests.support.ip_session import ip_request

ALICE4, ALICE6, BOB4 = "10.71.0.2", "fd71::2", "10.71.0.3"


class Sink:
    is_busy = False

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.lost: FlowError | None = None

    @property
    def packets(self) -> list[bytes]:
        return [packet for batch in self.batches for packet in batch]

    def on_packets(self, packets: Sequence[bytes]) -> None:
        self.batches.append(list(packets))

    def on_egress_lost(self, error: FlowError) -> None:
        self.lost = error


def loop_egress() -> LoopEgress:
    return LoopEgress(NetworkPool([ip_network(POOL4), ip_network(POOL6)]).ranges())


def attach(egress: LoopEgress, *addresses: str) -> tuple[LoopAttachment, Sink]:
    sink = Sink()
    lease = FakeLease(ip_request())
    return egress.attach(lease, [ip_address(text) for text in addresses], sink), sink


async def test_nobodys_addresses_answer_pings_and_echo_udp() -> None:
    attachment, sink = attach(loop_egress(), ALICE4, ALICE6)
    packets = [
        ping4(ALICE4, NOBODY4),
        ping6(ALICE6, NOBODY6),
        ipv4(ALICE4, NOBODY4, udp(b"four", source_port=9, port=7)),
        ipv6(ALICE6, NOBODY6, udp(b"six", source_port=9, port=7)),
        ipv4(ALICE4, NOBODY4, b"?", protocol=99),
    ]
    assert attachment.send_packets(packets) == 5
    assert sink.packets == []  # never from inside a call
    await asyncio.sleep(0)
    assert len(sink.batches) == 1
    assert [icmp_kind(packet) for packet in sink.packets] == [(0, 0), (129, 0), None, None]
    assert sink.packets[2] == ipv4(NOBODY4, ALICE4, udp(b"four", source_port=7, port=9))
    assert sink.packets[3] == ipv6(NOBODY6, ALICE6, udp(b"six", source_port=7, port=9))


async def test_tunnels_reach_each_other() -> None:
    egress = loop_egress()
    alice, _ = attach(egress, ALICE4)
    bob, bobs_sink = attach(egress, BOB4)
    packet = ipv4(ALICE4, BOB4, udp(b"hello"))
    alice.send_packets([packet])
    await asyncio.sleep(0)
    assert bobs_sink.packets == [packet]
    bob.close()
    bob.close()
    alice.send_packets([packet])
    await asyncio.sleep(0)
    assert bobs_sink.packets == [packet]


async def test_a_full_queue_drops_and_counts() -> None:
    attachment, sink = attach(loop_egress(), ALICE4)
    attachment.send_packets([ping4(ALICE4, NOBODY4)] * (QUEUE_PACKETS + 3))
    await asyncio.sleep(0)
    assert attachment.dropped_count == 3
    assert len(sink.packets) == QUEUE_PACKETS
    assert max(map(len, sink.batches)) == 64


async def test_the_loop_can_vanish() -> None:
    egress = loop_egress()
    attachment, sink = attach(egress, ALICE4, ALICE6)
    egress.vanish()
    assert sink.lost is not None
    assert sink.lost.fault is FlowFault.DESTINATION_UNAVAILABLE
    assert attachment.send_packets([ping4(ALICE4, NOBODY4)]) == 0
    with pytest.raises(FlowError):
        attach(egress, BOB4)
