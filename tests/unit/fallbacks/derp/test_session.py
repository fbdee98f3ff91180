"""DERP sessions with real boxes: greeting, packets, pings, ends; and the bridge to Ghostwire."""

import json
import struct
from typing import Any

import pytest
from nacl.public import Box, PrivateKey, PublicKey

from fallbacks.derp.wire import FrameType, GoneReason, encode_frame
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.verdict import DenyReason, EndReason
from masque_relay.tunnels.session import Unmetered
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode
from tests.support.derp_world import MESH_KEY, DerpClient, DerpWorld
from tests.support.ghostwire_world import World

MAGIC = bytes.fromhex("44455250f09f9491")


def frames_of(client: DerpClient, number: FrameType) -> list[bytes]:
    return [body for got, body in client.heard() if got == number]


class TestGreeting:
    def test_the_server_speaks_first_and_says_its_key(self) -> None:
        world = DerpWorld()
        client = DerpClient(world, "alice")
        assert client.heard() == [(FrameType.SERVER_KEY, MAGIC + world.box.public_key)]

    def test_the_server_information_is_sealed_for_the_client_and_names_its_rate(self) -> None:
        world = DerpWorld()
        world.tunnel_limits = TunnelLimits(rate_bytes_per_s=125_000, burst_bytes=70_000)
        client = DerpClient(world, "alice")
        client.feed(client.greeting())
        sealed = frames_of(client, FrameType.SERVER_INFO)[0]
        box = Box(client.key, PublicKey(world.box.public_key))
        assert json.loads(box.decrypt(sealed[24:], sealed[:24])) == {
            "version": 2,
            "TokenBucketBytesPerSecond": 125_000,
            "TokenBucketBytesBurst": 70_000,
        }
        assert world.counters.clients_opened == 1
        assert world.counters.clients_open == 1

    def test_a_key_that_the_client_does_not_hold_is_refused(self) -> None:
        world = DerpWorld()
        victim, thief = PrivateKey.generate(), DerpClient(world, "thief")
        greeting = thief.greeting()
        forged = greeting[:5] + bytes(victim.public_key) + greeting[37:]
        thief.feed(forged)
        assert frames_of(thief, FrameType.HEALTH)
        assert thief.pipe.is_over
        assert world.counters.handshakes_refused == 1
        assert world.board.find(bytes(victim.public_key)) is None

    @pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)])
    def test_a_key_of_low_order_is_refused(self, key: bytes) -> None:
        client = DerpClient(DerpWorld(), "nobody")
        client.feed(encode_frame(FrameType.CLIENT_INFO, key + bytes(24) + bytes(40)))
        assert client.pipe.is_over

    def test_a_wrong_mesh_key_is_refused_like_a_wrong_key(self) -> None:
        world = DerpWorld()
        wrong, unknown = DerpClient(world, "mesh"), DerpClient(world, "bob")
        wrong.feed(wrong.greeting(meshKey="00" * 32))
        world.refuse_with = DenyReason.CREDENTIAL_INVALID
        unknown.feed(unknown.greeting())
        assert wrong.heard() == unknown.heard()

    def test_another_version_is_told_so(self) -> None:
        client = DerpClient(DerpWorld(), "old")
        client.feed(client.greeting(version=1))
        assert b"version 2" in frames_of(client, FrameType.HEALTH)[0]

    def test_a_client_that_does_not_greet_in_time_is_cut_off(self) -> None:
        world = DerpWorld()
        client = DerpClient(world, "slow")
        world.now_s += 10.0
        client.session.on_tick()
        assert client.pipe.is_over
        assert client.session.end_reason is EndReason.IDLE

    def test_a_refusal_never_says_which_check_failed(self) -> None:
        world = DerpWorld()
        world.refuse_with = DenyReason.REVOKED
        client = DerpClient(world, "alice")
        client.feed(client.greeting())
        text = frames_of(client, FrameType.HEALTH)[0]
        assert b"secret" not in text
        assert b"revoked" not in text

    def test_what_is_sent_before_the_answer_is_not_lost(self) -> None:
        world = DerpWorld()
        bob = world.client("bob")
        world.decides_later = True
        alice = DerpClient(world, "alice")
        alice.feed(alice.greeting())
        alice.send(bob.public, b"early")
        alice.feed(encode_frame(FrameType.PING, b"12345678"))
        assert bob.packets() == []
        world.decide()
        assert bob.packets() == [(alice.public, b"early")]
        assert frames_of(alice, FrameType.PONG) == [b"12345678"]

    def test_too_much_before_the_answer_is_dropped_and_counted(self) -> None:
        world = DerpWorld(early_bytes=4_000)
        bob = world.client("bob")
        world.decides_later = True
        alice = DerpClient(world, "alice")
        alice.feed(alice.greeting())
        alice.send(bob.public, *[bytes(1_000)] * 8)
        world.decide()
        assert len(bob.packets()) == 3
        assert world.counters.early_dropped == 5

    def test_a_client_that_leaves_before_the_answer_is_not_admitted(self) -> None:
        world = DerpWorld()
        world.decides_later = True
        alice = DerpClient(world, "alice")
        alice.feed(alice.greeting())
        alice.session.ended(EndReason.CONNECTION_LOST)
        world.decide()
        assert world.counters.clients_open == 0
        assert world.board.find(alice.public) is None


class TestPackets:
    def test_packets_go_both_ways_with_their_source(self) -> None:
        world = DerpWorld()
        alice, bob = world.client("alice"), world.client("bob")
        alice.send(bob.public, b"one", b"", bytes(65_536))
        assert bob.packets() == [
            (alice.public, b"one"),
            (alice.public, b""),
            (alice.public, bytes(65_536)),
        ]
        bob.send(alice.public, b"back")
        assert alice.packets() == [(bob.public, b"back")]
        assert world.counters.packets == 4
        assert world.counters.packet_bytes == 3 + 65_536 + 4

    def test_absent_and_forbidden_peers_look_the_same(self) -> None:
        world = DerpWorld()
        alice, bob = world.client("alice"), world.client("bob")
        world.forbidden.add(("alice", bob.public))
        alice.send(bob.public, b"hello")
        alice.send(bytes(32), b"hello")
        gone = bytes([GoneReason.NOT_HERE])
        assert alice.heard() == [
            (FrameType.PEER_GONE, bob.public + gone),
            (FrameType.PEER_GONE, bytes(32) + gone),
        ]
        assert bob.packets() == []
        assert world.counters.unknown_dropped == 2

    def test_a_client_hears_once_per_second_that_a_peer_is_absent(self) -> None:
        world = DerpWorld()
        alice = world.client("alice")
        for _ in range(5):
            alice.send(bytes(32), b"hello", b"again")
        assert len(alice.heard()) == 1
        alice.session.on_tick()
        alice.send(bytes(32), b"hello")
        assert len(alice.heard()) == 1

    def test_who_spoke_to_a_client_that_leaves_hears_of_it(self) -> None:
        world = DerpWorld()
        alice, bob = world.client("alice"), world.client("bob")
        alice.send(bob.public, b"hello")
        bob.session.ended(EndReason.CONNECTION_LOST)
        assert alice.heard() == [(FrameType.PEER_GONE, bob.public + b"\x00")]

    def test_a_reload_that_forbids_a_peer_closes_the_way_to_it(self) -> None:
        world = DerpWorld()
        alice, bob = world.client("alice"), world.client("bob")
        alice.send(bob.public, b"hello")
        bob.packets()
        world.forbidden.add(("alice", bob.public))
        world.generation += 1
        alice.session.on_tick()
        alice.send(bob.public, b"again")
        assert bob.packets() == []

    def test_a_slow_receiver_shares_its_way_fairly_and_drops_the_flood(self) -> None:
        world = DerpWorld(busy_bytes=1_000, queue_datagrams=20)
        loud, quiet, bob = world.client("loud"), world.client("quiet"), world.client("bob")
        bob.pipe.is_stalled = True
        loud.send(bob.public, *[bytes(500)] * 100)
        quiet.send(bob.public, b"small")
        bob.drain()
        sources = [source for source, _ in bob.packets()]
        assert quiet.public in sources
        assert world.counters.queue_dropped > 50
        assert len(sources) + world.counters.queue_dropped == 101

    def test_a_rate_drops_packets_and_never_holds_them(self) -> None:
        class Nothing(Unmetered):
            def take(self, datagram_count: int, byte_count: int) -> bool:
                return False

        world = DerpWorld()
        alice, bob = world.client("alice"), world.client("bob")
        lease: Any = alice.session.lease
        lease.uplink = Nothing()
        alice.send(bob.public, b"one", b"two")
        assert bob.packets() == []
        assert world.counters.rate_dropped == 2
        assert alice.pipe.consumed_bytes > 0

    def test_no_client_holds_more_peers_than_it_may(self) -> None:
        world = DerpWorld(max_peers=3)
        alice = world.client("alice")
        others = [world.client(f"peer{number}") for number in range(5)]
        for other in others:
            alice.send(other.public, b"hello")
        assert all(len(other.packets()) == 1 for other in others)
        assert alice.heard() == []


class TestControl:
    def test_a_ping_is_answered_with_its_bytes(self) -> None:
        client = DerpWorld().client("alice")
        client.feed(encode_frame(FrameType.PING, b"12345678"))
        assert client.heard() == [(FrameType.PONG, b"12345678")]

    def test_pings_of_a_client_that_reads_nothing_are_not_answered(self) -> None:
        client = DerpWorld(busy_bytes=100).client("alice")
        client.pipe.is_stalled = True
        for _ in range(100):
            client.feed(encode_frame(FrameType.PING, b"12345678"))
        assert client.pipe.unsent_bytes < 120

    def test_homes_are_counted(self) -> None:
        world = DerpWorld()
        alice, bob = world.client("alice"), world.client("bob")
        for client, says in ((alice, b"\x01"), (alice, b"\x01"), (bob, b"\x01"), (bob, b"\x00")):
            client.feed(encode_frame(FrameType.NOTE_PREFERRED, says))
        assert world.counters.homes == 1
        alice.session.ended(EndReason.CONNECTION_LOST)
        assert world.counters.homes == 0

    def test_the_relay_keeps_a_quiet_connection_alive(self) -> None:
        world = DerpWorld()
        alice, pinged = world.client("alice"), world.client("pinged", CanAckPings=True)
        world.now_s += 62.0
        for client in (alice, pinged):
            client.session.on_tick()
            assert client.heard() == []
        world.now_s += 1.0
        for client in (alice, pinged):
            client.session.on_tick()
        assert alice.heard() == [(FrameType.KEEP_ALIVE, b"")]
        assert pinged.heard() == [(FrameType.PING, bytes(8))]

    def test_a_client_that_can_answer_pings_and_does_not_is_gone(self) -> None:
        world = DerpWorld()
        client = world.client("alice", CanAckPings=True)
        for _ in range(6):
            world.now_s += 63.0
            client.session.on_tick()
        assert client.session.end_reason is EndReason.IDLE

    def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        world = DerpWorld(stall_timeout_s=5.0)
        alice, bob = world.client("alice"), world.client("bob")
        bob.pipe.is_stalled = True
        alice.send(bob.public, b"hello")
        world.now_s += 4.0
        bob.session.on_tick()
        assert bob.pipe.aborted is None
        world.now_s += 1.0
        bob.session.on_tick()
        assert bob.pipe.aborted is EndReason.IDLE
        assert world.counters.clients_stalled == 1

    def test_clients_hear_that_the_relay_restarts(self) -> None:
        client = DerpWorld().client("alice")
        client.session.restarting(reconnect_in_ms=1_500, try_for_ms=60_000)
        assert client.heard() == [(FrameType.RESTARTING, struct.pack("!II", 1_500, 60_000))]

    def test_the_newest_connection_of_a_key_wins_and_nobody_hears_of_a_loss(self) -> None:
        world = DerpWorld()
        bob, old = world.client("bob"), world.client("alice")
        old.send(bob.public, b"hello")
        bob.packets()
        new = DerpClient(world, "alice", old.key).enter()
        assert frames_of(old, FrameType.HEALTH)
        assert old.pipe.is_over
        assert bob.heard() == []
        bob.send(new.public, b"to the new one")
        assert new.packets() == [(bob.public, b"to the new one")]
        assert world.counters.clients_replaced == 1
        assert world.counters.clients_open == 2


class TestMesh:
    def test_a_watcher_hears_who_is_here_who_comes_and_who_goes(self) -> None:
        world = DerpWorld()
        alice = world.client("alice")
        mesh = world.client("mesh", meshKey=MESH_KEY)
        mesh.feed(encode_frame(FrameType.WATCH_CONNS))
        address = bytes(10) + b"\xff\xff" + bytes([198, 51, 100, 7]) + (40_000).to_bytes(2, "big")
        assert mesh.heard() == [
            (FrameType.PEER_PRESENT, alice.public + address + b"\x01"),
            (FrameType.PEER_PRESENT, mesh.public + address + b"\x02"),
        ]
        prober = world.client("prober", IsProber=True)
        prober.session.ended(EndReason.PEER_CLOSED)
        assert mesh.heard() == [
            (FrameType.PEER_PRESENT, prober.public + address + b"\x04"),
            (FrameType.PEER_GONE, prober.public + b"\x00"),
        ]

    def test_a_watcher_hears_of_no_loss_when_a_newer_connection_takes_over(self) -> None:
        world = DerpWorld()
        old, mesh = world.client("alice"), world.client("mesh", meshKey=MESH_KEY)
        mesh.feed(encode_frame(FrameType.WATCH_CONNS))
        mesh.heard()
        new = DerpClient(world, "alice", old.key).enter()
        assert [number for number, _ in mesh.heard()] == [FrameType.PEER_PRESENT]
        new.session.ended(EndReason.CONNECTION_LOST)
        assert mesh.heard() == [(FrameType.PEER_GONE, new.public + b"\x00")]

    def test_a_mesh_server_forwards_to_clients_that_policy_lets_it_reach(self) -> None:
        world = DerpWorld()
        alice, bob = world.client("alice"), world.client("bob")
        mesh = world.client("mesh", meshKey=MESH_KEY)
        world.forbidden.add(("mesh", bob.public))
        away = b"\x07" * 32
        for to in (alice.public, bob.public):
            mesh.feed(encode_frame(FrameType.FORWARD_PACKET, away + to + b"from far"))
        assert alice.packets() == [(away, b"from far")]
        assert bob.packets() == []
        assert world.counters.forwarded_packets == 1

    def test_a_mesh_server_closes_a_client(self) -> None:
        world = DerpWorld()
        alice, mesh = world.client("alice"), world.client("mesh", meshKey=MESH_KEY)
        mesh.feed(encode_frame(FrameType.CLOSE_PEER, alice.public))
        assert alice.pipe.is_over
        assert alice.session.end_reason is EndReason.KICKED

    @pytest.mark.parametrize(
        ("number", "body"),
        [
            (FrameType.WATCH_CONNS, b""),
            (FrameType.CLOSE_PEER, bytes(32)),
            (FrameType.FORWARD_PACKET, bytes(64)),
        ],
    )
    def test_without_the_mesh_key_such_frames_end_the_connection(
        self, number: FrameType, body: bytes
    ) -> None:
        world = DerpWorld()
        client = world.client("alice")
        with pytest.raises(WireError, match="mesh key"):
            client.feed(encode_frame(number, body))
        assert world.counters.protocol_errors == 1


class TestBridge:
    """A DERP client and a Ghostwire peer at one switchboard."""

    def worlds(self, **changes: Any) -> tuple[World, DerpWorld, Any, DerpClient]:
        ghost = World()
        world = DerpWorld(ghost.board, **changes)
        return ghost, world, ghost.peer("ghost"), world.client("alice")

    def test_a_derp_client_calls_a_ghostwire_peer_with_its_first_packet(self) -> None:
        ghost, _, peer, alice = self.worlds()
        alice.send(peer.peer_id, b"one", b"two")
        ghost.settle()
        assert peer.calls[0].datagrams == [b"one", b"two"]
        peer.calls[0].channel.send_datagrams([b"back"])
        ghost.settle()
        assert alice.packets() == [(peer.peer_id, b"back")]

    def test_a_ghostwire_peer_calls_a_derp_client(self) -> None:
        ghost, _, peer, alice = self.worlds()
        call = peer.call(alice.public, ChannelKind.DATAGRAMS)
        ghost.settle()
        assert call.is_open
        call.channel.send_datagrams([b"hello"])
        ghost.settle()
        assert alice.packets() == [(peer.peer_id, b"hello")]
        alice.send(peer.peer_id, b"back")
        ghost.settle()
        assert call.datagrams == [b"back"]

    def test_a_derp_client_takes_no_streams(self) -> None:
        ghost, _, peer, alice = self.worlds()
        call = peer.call(alice.public, ChannelKind.STREAM)
        ghost.settle()
        assert call.closed == (ErrorCode.PEER_UNAVAILABLE, "")

    def test_policy_holds_in_both_directions(self) -> None:
        ghost, world, peer, alice = self.worlds()
        ghost.forbidden.add(("ghost", alice.public))
        world.forbidden.add(("alice", peer.peer_id))
        call = peer.call(alice.public, ChannelKind.DATAGRAMS)
        alice.send(peer.peer_id, b"hello")
        ghost.settle()
        assert call.closed == (ErrorCode.PEER_UNAVAILABLE, "")
        assert peer.calls == []
        assert alice.heard() == [(FrameType.PEER_GONE, peer.peer_id + b"\x01")]

    def test_a_peer_that_takes_no_calls_is_not_called_again_at_once(self) -> None:
        ghost, _, peer, alice = self.worlds()
        peer.refuses = True
        for _ in range(3):
            alice.send(peer.peer_id, b"hello")
            ghost.settle()
        assert alice.heard() == [(FrameType.PEER_GONE, peer.peer_id + b"\x01")]
        alice.session.on_tick()
        peer.refuses = False
        alice.send(peer.peer_id, b"hello")
        ghost.settle()
        assert peer.calls[0].datagrams == [b"hello"]

    def test_packets_for_a_call_that_rings_are_held_within_a_bound(self) -> None:
        ghost, world, peer, alice = self.worlds(held_datagrams=4)
        alice.send(peer.peer_id, *[bytes([n]) for n in range(10)])
        ghost.settle()
        assert peer.calls[0].datagrams == [bytes([n]) for n in range(4)]
        assert world.counters.held_dropped == 6

    def test_a_derp_client_hears_that_a_ghostwire_peer_left_and_the_other_way_round(self) -> None:
        ghost, _, peer, alice = self.worlds()
        alice.send(peer.peer_id, b"hello")
        ghost.settle()
        alice.session.ended(EndReason.CONNECTION_LOST)
        ghost.settle()
        assert peer.calls[0].closed == (ErrorCode.PEER_UNAVAILABLE, "")

    def test_what_is_too_large_for_derp_is_dropped_and_counted(self) -> None:
        _, world, _, alice = self.worlds()
        alice.session.receive(bytes(32), [bytes(65_537), b"fits"])
        assert alice.packets() == [(bytes(32), b"fits")]
        assert world.counters.oversize_dropped == 1
