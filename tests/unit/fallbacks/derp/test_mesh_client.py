"""fallbacks/derp/mesh_client.py: two servers in memory, ours the client of the other."""

import secrets
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallbacks.derp import wire
from fallbacks.derp.box import ServerBox
from fallbacks.derp.mesh_client import MeshClient, MeshPorts
from fallbacks.derp.wire import FrameType, GoneReason, encode_frame
from masque_relay.contract.counters import DerpMeshCounters
from masque_relay.contract.derp_limits import DerpMeshLimits
from masque_relay.contract.verdict import DenyReason, EndReason
from masque_relay.wire.errors import WireError
from tests.support.derp_world import MESH_KEY, DerpClient, DerpWorld, Pipe, split_frames

KEY = bytes(range(32))


class Link:
    """Our session at another server, and that server's session of us; bytes pass by hand."""

    def __init__(
        self,
        ours: DerpWorld,
        theirs: DerpWorld,
        *,
        mesh_key: str = MESH_KEY,
        attaches: bool = True,
        **limits: Any,
    ) -> None:
        self.counters = DerpMeshCounters()
        self.ours = ours
        self.client = MeshClient(
            MeshPorts(
                box=ours.box,
                mesh_key=mesh_key,
                elsewhere=ours.elsewhere,
                random_bytes=bytes,
                monotonic_s=lambda: ours.now_s,
                jitter=lambda: 0.5,
                counters=self.counters,
                limits=DerpMeshLimits(**limits),
            )
        )
        self.pipe = Pipe()
        self.there = DerpClient(theirs, "server")
        theirs.names[ours.box.public_key] = "server"
        if attaches:
            self.client.attach(self.pipe)

    def move(self) -> "Link":
        """Carry bytes until neither side has any."""
        while self.there.pipe.data or self.pipe.data:
            data, self.there.pipe.data = self.there.pipe.data, b""
            self.client.on_stream_data(data)
            data, self.pipe.data = self.pipe.data, b""
            if data and not self.there.pipe.is_over:
                self.there.feed(data)
        return self

    def sent(self) -> list[tuple[int, bytes]]:
        """Return what our side sent since the last time."""
        data, self.pipe.data = self.pipe.data, b""
        return split_frames(data)


def region(**limits: Any) -> tuple[DerpWorld, DerpWorld, Link]:
    """Return our server, the other one, and our open session there."""
    ours, theirs = DerpWorld(), DerpWorld()
    link = Link(ours, theirs, **limits).move()
    assert link.client.is_open
    return ours, theirs, link


class TestGreeting:
    def test_we_come_in_with_our_own_key_and_watch(self) -> None:
        ours, theirs = DerpWorld(), DerpWorld()
        bob = theirs.client("bob")
        link = Link(ours, theirs).move()
        assert link.client.is_open
        assert link.client.was_open
        assert link.client.server_key == theirs.box.public_key
        assert link.there.session.is_mesh
        assert link.there.session.peer_id == ours.box.public_key
        assert ours.elsewhere.find(bob.public) is link.client
        assert link.counters.servers_connected == 1
        assert link.counters.clients == 1

    def test_a_server_that_is_this_one_learns_nothing(self) -> None:
        ours = DerpWorld()
        link = Link(ours, ours)
        link.client.on_stream_data(link.there.pipe.data)
        assert link.client.is_ourselves
        assert link.pipe.is_over
        assert link.pipe.data == b""

    def test_a_wrong_mesh_key_is_refused_and_the_servers_words_are_kept(self) -> None:
        link = Link(DerpWorld(), DerpWorld(), mesh_key="00" * 32).move()
        assert not link.client.was_open
        assert link.client.fault == "the other server says: this relay does not admit this node key"
        link.client.on_stream_end()
        assert "does not admit" in link.client.fault
        assert link.counters.servers_connected == 0

    def test_a_denial_of_the_gate_is_heard_too(self) -> None:
        theirs = DerpWorld()
        theirs.refuse_with = DenyReason.OVERLOADED
        link = Link(DerpWorld(), theirs).move()
        assert link.client.fault == "the other server says: the relay is full"

    def test_a_server_that_does_not_hold_its_key_is_not_believed(self) -> None:
        link = Link(DerpWorld(), DerpWorld())
        link.client.on_stream_data(link.there.pipe.data)
        forged = ServerBox(secrets.token_bytes(32)).seal(link.ours.box.public_key, b"{}")
        with pytest.raises(WireError, match="not sealed"):
            link.client.on_stream_data(encode_frame(FrameType.SERVER_INFO, forged))
        assert not link.client.is_open

    @pytest.mark.parametrize(
        "data",
        [
            encode_frame(FrameType.SERVER_KEY, b"HTTP/1.1" + KEY),
            encode_frame(FrameType.SERVER_INFO, bytes(60)),
            encode_frame(FrameType.PEER_PRESENT, KEY),
            struct.pack("!BI", FrameType.SERVER_KEY, 4_097),
        ],
    )
    def test_what_is_no_greeting_is_refused(self, data: bytes) -> None:
        link = Link(DerpWorld(), DerpWorld())
        with pytest.raises(WireError):
            link.client.on_stream_data(data)
        assert link.pipe.data == b""

    def test_a_server_that_says_nothing_is_given_up(self) -> None:
        link = Link(DerpWorld(), DerpWorld(), handshake_timeout_s=10)
        link.ours.now_s += 9
        link.client.on_tick()
        assert link.client.end_reason is None
        link.ours.now_s += 1
        link.client.on_tick()
        assert link.pipe.aborted is EndReason.IDLE
        assert "in time" in link.client.fault


class TestPackets:
    def test_clients_of_both_servers_reach_each_other(self) -> None:
        ours, theirs, link = region()
        back = Link(theirs, ours).move()
        alice, bob = ours.client("alice"), theirs.client("bob")
        link.move()
        back.move()
        alice.send(bob.public, b"one", b"two")
        link.move()
        assert bob.packets() == [(alice.public, b"one"), (alice.public, b"two")]
        bob.send(alice.public, b"back")
        back.move()
        assert alice.packets() == [(bob.public, b"back")]
        assert theirs.counters.forwarded_packets == 2
        assert link.counters.packets == 2
        assert link.counters.packet_bytes == 6

    def test_who_is_here_is_not_sought_elsewhere(self) -> None:
        ours, theirs, link = region()
        alice, there = ours.client("alice"), theirs.client("bob")
        link.move()
        here = DerpClient(ours, "bob", there.key).enter()
        alice.send(here.public, b"hello")
        assert here.packets() == [(alice.public, b"hello")]
        assert link.pipe.data == b""

    def test_policy_is_asked_before_anything_leaves(self) -> None:
        ours, theirs, link = region()
        carol, bob = ours.client("carol"), theirs.client("bob")
        link.move()
        ours.forbidden.add(("carol", bob.public))
        carol.send(bob.public, b"hello")
        assert carol.heard() == [(FrameType.PEER_GONE, bob.public + b"\x01")]
        assert link.pipe.data == b""
        assert ours.counters.unknown_dropped == 1

    def test_policy_is_asked_again_every_second(self) -> None:
        ours, theirs, link = region()
        alice, bob = ours.client("alice"), theirs.client("bob")
        link.move()
        alice.send(bob.public, b"one")
        ours.forbidden.add(("alice", bob.public))
        alice.session.on_tick()
        alice.send(bob.public, b"two")
        link.move()
        assert bob.packets() == [(alice.public, b"one")]
        assert alice.heard() == [(FrameType.PEER_GONE, bob.public + b"\x01")]

    def test_the_senders_hear_that_the_other_server_has_no_way(self) -> None:
        ours, theirs, link = region()
        alice, bob = ours.client("alice"), theirs.client("bob")
        link.move()
        theirs.forbidden.add(("server", bob.public))
        alice.send(bob.public, b"one")
        link.move()
        assert link.counters.absent == 1
        alice.send(bob.public, b"two")
        assert link.pipe.data == b""
        assert alice.heard() == [(FrameType.PEER_GONE, bob.public + b"\x01")]
        theirs.forbidden.clear()
        link.there.session.on_tick()
        alice.session.on_tick()
        ours.elsewhere.tick()
        alice.heard()
        alice.send(bob.public, b"three")
        link.move()
        assert bob.packets() == [(alice.public, b"three")]

    def test_senders_hear_of_a_client_that_has_gone_and_others_do_not(self) -> None:
        ours, theirs, link = region()
        alice, carol, bob = ours.client("alice"), ours.client("carol"), theirs.client("bob")
        link.move()
        alice.send(bob.public, b"hello")
        bob.session.ended(EndReason.PEER_CLOSED)
        link.move()
        for client in (alice, carol):
            client.session.on_tick()
        assert alice.heard() == [(FrameType.PEER_GONE, bob.public + b"\x00")]
        assert carol.heard() == []

    def test_senders_hear_that_the_other_server_has_gone(self) -> None:
        ours, theirs, link = region()
        alice, bob = ours.client("alice"), theirs.client("bob")
        link.move()
        alice.send(bob.public, b"hello")
        link.client.ended(EndReason.CONNECTION_LOST)
        alice.session.on_tick()
        assert alice.heard() == [(FrameType.PEER_GONE, bob.public + b"\x00")]
        assert len(ours.elsewhere) == 0
        assert (link.counters.servers_connected, link.counters.clients) == (0, 0)

    def test_what_a_slow_server_does_not_take_is_queued_and_dropped_within_bounds(self) -> None:
        ours, theirs, link = region(busy_bytes=1_000, queue_datagrams=4, queue_bytes=10_000)
        alice, bob = ours.client("alice"), theirs.client("bob")
        link.move()
        link.pipe.is_stalled = True
        for number in range(10):
            alice.send(bob.public, bytes([number]) * 600)
        assert link.counters.queue_dropped == 4
        link.pipe.is_stalled = False
        link.pipe.unsent_bytes = 0
        link.client.on_stream_writable()
        link.move()
        assert [packet[0] for _, packet in bob.packets()] == [0, 1, 6, 7, 8, 9]

    def test_what_no_server_may_take_is_dropped_and_counted(self) -> None:
        _, theirs, link = region()
        bob = theirs.client("bob")
        link.move()
        link.client.forward(KEY, bob.public, [bytes(wire.MAX_PACKET_BYTES + 1), b"fits"])
        link.move()
        assert bob.packets() == [(KEY, b"fits")]
        assert link.counters.oversize_dropped == 1

    def test_a_client_of_the_other_server_never_leads_to_a_third_one(self) -> None:
        _, theirs, link = region()
        third = DerpWorld()
        further = Link(theirs, third).move()
        carol = third.client("carol")
        further.move()
        assert theirs.elsewhere.find(carol.public) is further.client
        link.client.forward(KEY, carol.public, [b"two hops"])
        link.move()
        assert further.pipe.data == b""
        assert theirs.counters.unknown_dropped == 1


class TestPresence:
    def test_servers_are_nobodys_peers(self) -> None:
        ours, theirs, link = region()
        mesh = theirs.client("mesh", meshKey=MESH_KEY)
        link.move()
        assert ours.elsewhere.find(mesh.public) is None
        assert ours.elsewhere.find(ours.box.public_key) is None
        assert link.client.client_count == 0

    def test_a_server_of_before_flags_is_understood(self) -> None:
        ours, _, link = region()
        link.client.on_stream_data(encode_frame(FrameType.PEER_PRESENT, KEY))
        assert ours.elsewhere.find(KEY) is link.client
        link.client.on_stream_data(encode_frame(FrameType.PEER_GONE, KEY))
        assert ours.elsewhere.find(KEY) is None

    def test_no_more_clients_are_remembered_than_may_be(self) -> None:
        ours, theirs, link = region(max_clients=1)
        first, second = theirs.client("first"), theirs.client("second")
        link.move()
        assert ours.elsewhere.find(first.public) is link.client
        assert ours.elsewhere.find(second.public) is None
        assert link.counters.clients_refused == 1
        first.session.ended(EndReason.PEER_CLOSED)
        theirs.client("third")
        link.move()
        assert link.client.client_count == 1

    def test_absence_of_a_client_that_was_never_there_changes_nothing(self) -> None:
        ours, theirs, link = region()
        bob = theirs.client("bob")
        link.move()
        for reason in GoneReason:
            link.client.on_stream_data(wire.encode_peer_gone(KEY, reason))
        assert ours.elsewhere.find(bob.public) is link.client
        assert link.counters.clients == 1


class TestLife:
    def test_a_ping_is_answered(self) -> None:
        _, _, link = region()
        link.client.on_stream_data(encode_frame(FrameType.PING, b"12345678"))
        assert link.sent() == [(FrameType.PONG, b"12345678")]

    def test_a_silent_server_is_pinged_then_given_up(self) -> None:
        ours, _, link = region(keepalive_s=15, keepalive_jitter_s=4, silence_timeout_s=45)
        link.client.on_tick()
        ours.now_s += 17
        link.client.on_tick()
        assert link.sent() == [(FrameType.PING, bytes(8))]
        link.client.on_stream_data(encode_frame(FrameType.PONG, bytes(8)))
        link.client.on_tick()
        ours.now_s += 44
        link.client.on_tick()
        assert link.client.is_open
        ours.now_s += 1
        link.client.on_tick()
        assert link.client.fault == "the other server is silent"
        assert link.pipe.aborted is EndReason.IDLE

    def test_a_server_that_takes_nothing_is_given_up(self) -> None:
        ours, theirs, link = region(stall_timeout_s=10)
        bob = theirs.client("bob")
        link.move()
        link.pipe.is_stalled = True
        link.client.forward(KEY, bob.public, [b"waits"])
        ours.now_s += 10
        link.client.on_tick()
        assert link.client.fault == "the other server takes no bytes"

    def test_a_server_that_goes_away_is_left_when_its_last_client_has_gone(self) -> None:
        ours, theirs, link = region()
        alice, bob = ours.client("alice"), theirs.client("bob")
        link.move()
        link.there.session.restarting(reconnect_in_ms=0, try_for_ms=1)
        link.move()
        alice.send(bob.public, b"still served")
        link.move()
        assert bob.packets() == [(alice.public, b"still served")]
        bob.session.ended(EndReason.PEER_CLOSED)
        link.move()
        assert link.pipe.is_over
        assert link.client.fault == "the other server goes away"

    def test_when_we_go_the_connection_is_closed_and_nothing_follows(self) -> None:
        ours, theirs, link = region()
        bob = theirs.client("bob")
        link.move()
        link.client.close()
        link.client.close()
        assert link.pipe.is_over
        assert link.client.end_reason is EndReason.DRAINED
        link.client.forward(KEY, bob.public, [b"late"])
        link.client.on_stream_data(encode_frame(FrameType.PING, b"12345678"))
        link.client.on_tick()
        assert link.pipe.data == b""
        assert len(ours.elsewhere) == 0

    def test_closed_before_it_was_attached_it_closes_at_once(self) -> None:
        link = Link(DerpWorld(), DerpWorld(), attaches=False)
        link.client.close()
        link.client.attach(link.pipe)
        assert link.pipe.is_over

    def test_words_that_could_harm_a_log_are_made_harmless(self) -> None:
        _, _, link = region()
        link.client.on_stream_data(encode_frame(FrameType.HEALTH, b"a\n\x1b[31m" + b"b" * 5_000))
        assert "\n" not in link.client.fault
        assert "\x1b" not in link.client.fault
        assert len(link.client.fault) < 1_100
        link.client.on_stream_data(encode_frame(FrameType.HEALTH))
        assert link.client.fault == ""

    def test_the_end_inside_a_frame_is_an_error(self) -> None:
        _, _, link = region()
        link.client.on_stream_data(encode_frame(FrameType.PING, b"12345678")[:-1])
        with pytest.raises(WireError):
            link.client.on_stream_end()


@given(st.binary(max_size=300))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    _, _, link = region()
    try:
        link.client.on_stream_data(data)
    except WireError:
        link.client.ended(EndReason.PROTOCOL_ERROR)
    assert link.client.client_count <= 300


@given(st.data())
def test_a_server_is_understood_however_its_bytes_are_cut(data: st.DataObject) -> None:
    ours, theirs, link = region()
    bob = theirs.client("bob")
    stream = link.there.pipe.data
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        link.client.on_stream_data(stream[start:end])
    assert ours.elsewhere.find(bob.public) is link.client
