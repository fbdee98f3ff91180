"""Two peers and a relay, frame by frame, without I/O."""

from hashlib import sha512
from typing import Any

import pytest

from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ghostwire_presence import RECORDS_PER_TICK, WATCHES_PER_TICK
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    Auth,
    Binding,
    Candidates,
    ChannelKind,
    Close,
    Data,
    End,
    ErrorCode,
    Frame,
    FrameType,
    Hello,
    Observed,
    Open,
    Opened,
    Ping,
    Presence,
    Restarting,
    Watch,
)
from masque_relay.wire.ghostwire_codec import frame_value
from masque_relay.wire.ghostwire_proof import Candidate, CandidateRecord
from tests.support.ghostwire_world import NOW_S, Peer, World

STREAM, DATAGRAMS = ChannelKind.STREAM, ChannelKind.DATAGRAMS


def exporter_of(secret: bytes) -> Any:
    return lambda label, context, length: sha512(secret + label + context).digest()[:length]


def send_raw(peer: Peer, frame: Frame) -> None:
    """Say what the client's state machine would not say."""
    peer.carrier.send_capsule(*frame_value(frame))
    peer.world.settle()


class TestOpening:
    def test_peer_with_a_challenge_is_welcomed_and_told_where_it_is_seen(self) -> None:
        world = World()
        alice = world.peer("alice")

        assert alice.session.is_open
        assert world.board.find(alice.peer_id) is alice.at_relay
        assert alice.session.clock_skew_s == -5
        (observed,) = alice.heard
        assert observed == Observed(address=b"\xc6\x33\x64\x09", port=4_433, observer_port=443)
        assert world.counters.sessions_open == 1
        assert world.counters.sessions_opened == 1

    def test_peer_with_an_exporter_proves_in_the_same_flight(self) -> None:
        world = World(require_exporter=True)
        alice = Peer(world, "alice", exporter=exporter_of(b"tls"))

        assert alice.carrier.frames == [FrameType.HELLO, FrameType.AUTH]
        world.settle()
        assert alice.session.is_open

    @pytest.mark.parametrize(
        "changes",
        [
            {"exporter": exporter_of(b"one"), "relay_exporter": exporter_of(b"another")},
            {"exporter": exporter_of(b"one"), "relay_exporter": None},
            {"relay_name": "other.example"},
            {"peer_id": bytes(32)},
        ],
        ids=["another connection", "TLS ends before", "another relay", "another's key"],
    )
    def test_proof_for_something_else_is_refused_without_a_reason(
        self, changes: dict[str, Any]
    ) -> None:
        world = World()
        mallory = world.peer("mallory", **changes)

        assert mallory.closed == (ErrorCode.UNAUTHENTICATED, "", 0)
        assert len(world.board) == 0
        assert world.counters.handshakes_refused == 1

    def test_challenge_is_refused_where_the_exporter_is_required(self) -> None:
        assert World(require_exporter=True).peer("alice").closed is not None

    def test_gates_refusal_reaches_the_peer_with_the_time_to_wait(self) -> None:
        world = World()
        world.refuse_with = ErrorCode.OVERLOADED
        alice = world.peer("alice")

        assert alice.closed == (ErrorCode.OVERLOADED, "", 7)
        assert alice.at_relay.end_reason is EndReason.DENIED

    def test_version_that_nobody_speaks_is_said(self) -> None:
        world = World()
        alice = Peer(world, "alice")
        world.under_way.clear()
        send_raw(alice, Hello(versions=(9,), features=0, nonce=bytes(16), time_s=0))

        assert alice.closed == (ErrorCode.VERSION, "", 0)

    def test_proof_of_one_session_is_worth_nothing_in_another(self) -> None:
        world = World()
        alice = Peer(world, "alice")
        world.settle()
        replay = Peer(world, "alice")
        world.under_way.clear()
        send_raw(replay, Hello(versions=(1,), features=0, nonce=bytes(16), time_s=0))
        world.under_way.clear()
        signature = alice.key.sign(b"whatever was captured")
        auth = Auth(peer_id=alice.peer_id, binding=Binding.CHALLENGE, signature=signature, token="")
        send_raw(replay, auth)

        assert replay.at_relay.end_reason is EndReason.DENIED
        assert alice.session.is_open

    @pytest.mark.parametrize(
        "frame",
        [
            Auth(peer_id=bytes(32), binding=Binding.EXPORTER, signature=bytes(64), token=""),
            Open(channel=0, kind=STREAM, peer_id=bytes(32)),
            Data(channel=0, data=b"x"),
            Watch(peer_ids=()),
        ],
        ids=lambda frame: type(frame).__name__,
    )
    def test_frame_before_its_time_ends_the_session(self, frame: Frame) -> None:
        world = World()
        eager = Peer(world, "eager")
        world.under_way.clear()
        send_raw(eager, frame)

        assert eager.at_relay.end_reason is EndReason.PROTOCOL_ERROR
        assert world.counters.protocol_errors == 1

    def test_handshake_that_takes_too_long_is_over(self) -> None:
        world = World(handshake_timeout_s=10)
        slow = Peer(world, "slow")
        world.under_way.clear()
        world.now_s += 9.9
        slow.at_relay.on_tick()
        assert slow.at_relay.end_reason is None
        world.now_s += 0.2
        slow.at_relay.on_tick()

        assert slow.at_relay.end_reason is EndReason.IDLE

    def test_newest_session_wins_and_the_older_is_told(self) -> None:
        world = World()
        older = world.peer("alice")
        newer = world.peer("alice")

        assert older.closed == (ErrorCode.REPLACED, "", 0)
        assert world.board.find(newer.peer_id) is newer.at_relay
        assert world.counters.sessions_replaced == 1
        assert world.counters.sessions_open == 1


class TestDatagrams:
    def test_datagrams_pass_both_ways_and_name_the_caller(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call = alice.call(bob, DATAGRAMS, service=b"wg")
        assert call.channel is not None
        call.channel.send_datagrams([b"one", b"two"])
        world.settle()
        (taken,) = bob.calls
        assert taken.channel is not None
        taken.channel.send_datagrams([b"three"])
        world.settle()

        assert taken.channel.peer_id == alice.peer_id
        assert taken.channel.service == b"wg"
        assert taken.datagrams == [b"one", b"two"]
        assert call.datagrams == [b"three"]
        assert world.counters.channels_opened == 1
        assert world.counters.relayed_datagrams == 3
        assert world.counters.relayed_bytes == 11
        assert alice.lease.uplink.byte_count == 6
        assert bob.lease.downlink.byte_count == 6

    def test_datagram_too_large_for_the_receivers_carrier_goes_as_a_frame(self) -> None:
        world = World()
        alice, bob = world.peer("alice", max_payload_bytes=60_000), world.peer("bob")
        call = alice.call(bob, DATAGRAMS)
        world.settle()
        assert call.channel is not None
        call.channel.send_datagrams([bytes(1_200), bytes(1_199)])
        world.settle()

        assert sorted(map(len, bob.calls[0].datagrams)) == [1_199, 1_200]
        assert FrameType.DATAGRAM in bob.relay_carrier.frames
        bob.relay_carrier.unsent_bytes = 1 << 30
        call.channel.send_datagrams([bytes(2_000)])
        world.settle()
        assert world.counters.oversize_dropped == 1

    def test_datagrams_for_no_channel_are_counted(self) -> None:
        world = World()
        alice = world.peer("alice")
        alice.carrier.send_datagrams(b"\x00", [b"x", b"y"])
        alice.carrier.send_datagrams(b"", [b"", b"\x40"])
        world.settle()

        assert world.counters.stray_dropped == 4
        assert alice.session.is_open

    def test_busy_receiver_is_shared_fairly_and_the_rest_is_counted(self) -> None:
        world = World(queue_datagrams=100)
        bob, flood, quiet = world.peer("bob"), world.peer("flood"), world.peer("quiet")
        loud, soft = flood.call(bob, DATAGRAMS), quiet.call(bob, DATAGRAMS)
        world.settle()
        bob.relay_carrier.is_busy = True
        assert loud.channel is not None
        assert soft.channel is not None
        for _ in range(50):
            loud.channel.send_datagrams([bytes(100)] * 10)
        soft.channel.send_datagrams([b"hello"])
        world.settle()
        assert bob.calls[1].datagrams == []
        bob.relay_carrier.is_busy = False
        bob.at_relay.on_writable()
        world.settle()

        assert bob.calls[1].datagrams == [b"hello"]
        assert len(bob.calls[0].datagrams) == 99
        assert world.counters.queue_dropped == 401

    def test_rate_of_either_side_drops_and_counts(self) -> None:
        class Nothing:
            def take(self, *_: int) -> bool:
                return False

            def drop(self, count: int) -> None:
                pass

        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call = alice.call(bob, DATAGRAMS)
        world.settle()
        assert call.channel is not None
        bob.lease.downlink = Nothing()
        call.channel.send_datagrams([b"1", b"2"])
        world.settle()
        alice.lease.uplink = Nothing()
        call.channel.send_datagrams([b"3"])
        world.settle()

        assert bob.calls[0].datagrams == []
        assert world.counters.rate_dropped == 3


class TestStreams:
    def test_bytes_pass_both_ways_and_both_ends_end_it(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call = alice.call(bob, STREAM)
        world.settle()
        (taken,) = bob.calls
        assert call.channel is not None
        assert taken.channel is not None
        assert call.is_open
        assert call.channel.send(b"question") == 8
        call.channel.end()
        taken.channel.send(b"answer")
        taken.channel.end()
        world.settle()

        assert (taken.data, taken.has_ended) == (b"question", True)
        assert (call.data, call.has_ended) == (b"answer", True)
        assert call.closed == taken.closed == (ErrorCode.NONE, "")
        assert len(alice.at_relay._channels) == len(bob.at_relay._channels) == 0

    def test_sender_stops_at_the_credit_and_goes_on_when_bytes_are_consumed(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        bob.consumes = False
        call = alice.call(bob, STREAM)
        world.settle()
        assert call.channel is not None
        assert call.channel.send(bytes(5_000)) == 1_000
        world.settle()
        assert call.channel.send(b"more") == 0
        taken = bob.calls[0]
        assert taken.channel is not None
        taken.channel.consume(600)
        world.settle()

        assert call.channel.send(bytes(5_000)) == 600
        world.settle()
        assert len(taken.data) == 1_600

    def test_relay_offers_no_more_than_its_window_whatever_the_receiver_gives(self) -> None:
        world = World(window_bytes=500)
        alice, bob = world.peer("alice"), world.peer("bob", window_bytes=1 << 30)
        call = alice.call(bob, STREAM)
        world.settle()
        bob.relay_carrier.is_stalled = True
        assert call.channel is not None
        sent = call.channel.send(bytes(10_000))
        world.settle()
        sent += call.channel.send(bytes(10_000))
        assert sent <= 500
        bob.relay_carrier.is_stalled = False
        bob.relay_carrier.unsent_bytes = 0
        bob.at_relay.on_writable()
        world.settle()

        assert call.channel.room_bytes == 500

    def test_bytes_beyond_the_credit_end_the_channel_and_no_other(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call, other = alice.call(bob, STREAM), alice.call(bob, STREAM)
        world.settle()
        send_raw(alice, Data(channel=0, data=bytes(1_001)))

        assert call.closed == (ErrorCode.CREDIT, "")
        assert bob.calls[0].closed == (ErrorCode.RESET, "")
        assert other.closed is None
        assert alice.session.is_open

    def test_rate_holds_stream_bytes_back_and_loses_none(self) -> None:
        class Ration:
            def __init__(self) -> None:
                self.left = 0

            def take(self, _: int, byte_count: int) -> bool:
                if byte_count > self.left:
                    return False
                self.left -= byte_count
                return True

        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call = alice.call(bob, STREAM)
        world.settle()
        assert call.channel is not None
        up, down = Ration(), Ration()
        alice.lease.uplink, bob.lease.downlink = up, down
        call.channel.send(b"abc")
        call.channel.end()
        world.settle()
        assert bob.calls[0].data == b""
        up.left = 3
        alice.at_relay.on_tick()
        world.settle()
        assert (bob.calls[0].data, up.left) == (b"", 0)
        down.left = 3
        alice.at_relay.on_tick()
        world.settle()

        assert bob.calls[0].data == b"abc"
        assert bob.calls[0].has_ended


class TestChannels:
    def test_away_and_forbidden_sound_the_same(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        world.forbidden.add(("alice", bob.peer_id))
        calls = [alice.call(bob, STREAM), alice.call(bytes(32), STREAM), alice.call(alice, STREAM)]
        world.settle()

        assert [call.closed for call in calls] == [(ErrorCode.PEER_UNAVAILABLE, "")] * 3
        assert world.counters.channels_refused == 3
        assert bob.calls == []

    def test_callee_may_refuse(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        bob.refuses = True
        call = alice.call(bob, STREAM)
        world.settle()

        assert call.closed == (ErrorCode.REFUSED, "not today")
        assert len(alice.at_relay._channels) == len(bob.at_relay._channels) == 0

    def test_channels_end_with_the_session_of_the_other_peer(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call = alice.call(bob, DATAGRAMS)
        world.settle()
        bob.session.close()
        world.settle()

        assert call.closed == (ErrorCode.PEER_UNAVAILABLE, "")
        assert alice.session.is_open

    def test_too_many_channels_are_refused_one_by_one(self) -> None:
        world = World(max_channels=2)
        alice, bob = world.peer("alice"), world.peer("bob")
        calls = [alice.call(bob, DATAGRAMS) for _ in range(3)]
        world.settle()

        assert [call.closed for call in calls] == [None, None, (ErrorCode.QUOTA, "")]

    def test_one_caller_leaves_room_for_others(self) -> None:
        world = World(max_channels_per_caller=2)
        alice, bob, carol = (world.peer(name) for name in ("alice", "bob", "carol"))
        back = bob.call(alice, DATAGRAMS)
        world.settle()
        calls = [alice.call(bob, DATAGRAMS) for _ in range(3)]
        other = carol.call(bob, DATAGRAMS)
        world.settle()

        # What Bob has called himself is not counted against those whom he called.
        assert [call.closed for call in (back, *calls)] == [None] * 3 + [(ErrorCode.QUOTA, "")]
        assert other.is_open

        assert calls[0].channel is not None
        calls[0].channel.close()
        world.settle()
        again = alice.call(bob, DATAGRAMS)
        world.settle()
        assert again.is_open

    @pytest.mark.parametrize(
        "frame",
        [
            Open(channel=1, kind=STREAM, peer_id=bytes(32)),
            Open(channel=0, kind=STREAM, peer_id=bytes(32)),
            Data(channel=8, data=b"x"),
            Data(channel=7, data=b"x"),
            End(channel=8),
            Close(channel=8, code=0),
            Opened(channel=0, credit_bytes=1),
            Hello(versions=(1,), features=0, nonce=bytes(16), time_s=0),
            Restarting(reconnect_in_ms=1, try_for_ms=1),
        ],
        ids=lambda frame: f"{type(frame).__name__}-{getattr(frame, 'channel', '')}",
    )
    def test_frame_that_makes_no_sense_ends_that_session_alone(self, frame: Frame) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        alice.call(bob, DATAGRAMS)
        world.settle()
        send_raw(alice, frame)

        assert alice.at_relay.end_reason is EndReason.PROTOCOL_ERROR
        assert world.counters.protocol_errors == 1
        assert bob.session.is_open

    def test_frames_that_cross_a_close_are_harmless(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call = alice.call(bob, STREAM)
        world.settle()
        assert call.channel is not None
        call.channel.close()
        for frame in (Data(channel=0, data=b"x"), End(channel=0), Close(channel=0, code=0)):
            send_raw(alice, frame)

        assert alice.session.is_open
        assert bob.calls[0].closed == (ErrorCode.NONE, "")

    def test_channel_to_a_host_is_the_hosts_business(self) -> None:
        world = World()
        alice = world.peer("alice")
        call = alice.call(b"", ChannelKind.TCP, host="web.example", port=443)
        world.settle()
        ((session, channel, frame),) = world.hosts
        assert session is alice.at_relay
        assert (frame.host, frame.port) == ("web.example", 443)
        channel.closed(ErrorCode.TARGET, "dns_error")
        world.settle()

        assert call.closed == (ErrorCode.TARGET, "dns_error")
        assert len(session._channels) == 0


class TestNeighbours:
    """What one peer does must not end, fill or outlive the sessions of others."""

    def test_reload_that_forbids_a_call_ends_the_channel_that_it_allowed(self) -> None:
        world = World()
        alice, bob, carol = (world.peer(name) for name in ("alice", "bob", "carol"))
        kept, forbidden = alice.call(bob, STREAM), alice.call(carol, STREAM)
        world.settle()
        world.forbidden.add(("alice", carol.peer_id))
        world.forbidden.add(("bob", alice.peer_id))  # bob was called and calls nobody
        world.generation += 1
        for peer in (alice, bob, carol):
            peer.at_relay.on_tick()
        world.settle()

        assert forbidden.closed == (ErrorCode.PEER_UNAVAILABLE, "")
        assert carol.calls[0].closed == (ErrorCode.PEER_UNAVAILABLE, "")
        assert kept.closed is None

    def test_peer_that_rings_without_end_does_not_choke_the_session_of_another(self) -> None:
        world = World(max_unsent_bytes=2_000)
        alice, bob = world.peer("alice"), world.peer("bob")
        bob.relay_carrier.is_stalled = True
        for _ in range(100):
            call = alice.call(bob, DATAGRAMS)
            assert call.channel is not None
            call.channel.close()
            world.settle()
        bob.at_relay.on_tick()

        assert bob.relay_carrier.unsent_bytes < 2_000
        assert bob.at_relay.end_reason is None

    def test_records_beyond_what_is_sensible_are_neither_checked_nor_passed_on(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        bob.session.watch([alice.peer_id])
        world.settle()
        for sequence in range(RECORDS_PER_TICK + 5):
            alice.session.publish(
                CandidateRecord(
                    peer_id=alice.peer_id,
                    sequence=sequence,
                    expires_s=int(NOW_S) + 60,
                    candidates=(),
                )
            )
        world.settle()
        assert len(bob.records) == RECORDS_PER_TICK
        alice.at_relay.on_tick()
        alice.session.publish(
            CandidateRecord(
                peer_id=alice.peer_id, sequence=99, expires_s=int(NOW_S) + 60, candidates=()
            )
        )
        world.settle()
        assert bob.records[-1].sequence == 99

    def test_lists_that_come_without_end_end_the_session(self) -> None:
        world = World(max_watched=2)
        alice = world.peer("alice")
        for _ in range(WATCHES_PER_TICK):
            alice.session.watch([bytes(32), bytes(range(32))])
        world.settle()
        assert not world.wire_errors
        alice.session.watch([bytes(32)])
        world.settle()

        assert [error.detail for error in world.wire_errors] == ["WATCH again and again"]


class TestPresence:
    def test_watcher_hears_of_those_whom_it_may_reach(self) -> None:
        world = World()
        alice = world.peer("alice")
        bob, carol = Peer(world, "bob"), Peer(world, "carol")
        world.forbidden.add(("alice", carol.peer_id))
        alice.session.watch([bob.peer_id, carol.peer_id])
        world.settle()
        bob.session.close()
        carol.session.close()
        world.settle()

        assert [frame for frame in alice.heard if isinstance(frame, Presence)] == [
            Presence(peer_id=bob.peer_id, is_here=True),
            Presence(peer_id=bob.peer_id, is_here=False),
        ]

    def test_signed_candidates_reach_the_watcher_newest_only(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        alice.session.watch([bob.peer_id])
        records = [
            CandidateRecord(
                peer_id=bob.peer_id,
                sequence=sequence,
                expires_s=int(NOW_S) + 60,
                candidates=(Candidate(kind=0, address=bytes(4), port=sequence),),
            )
            for sequence in (2, 1, 3)
        ]
        for record in records:
            bob.session.publish(record)
        world.settle()

        assert [record.sequence for record in alice.records] == [2, 3]

    def test_expired_record_is_not_believed(self) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        alice.session.watch([bob.peer_id])
        record = CandidateRecord(
            peer_id=bob.peer_id, sequence=1, expires_s=int(NOW_S), candidates=()
        )
        bob.session.publish(record)
        world.settle()

        assert alice.records == []

    @pytest.mark.parametrize("whose", ["own", "another's"])
    def test_forged_record_ends_the_forgers_session(self, whose: str) -> None:
        world = World()
        alice, mallory = world.peer("alice"), world.peer("mallory")
        victim = mallory if whose == "own" else alice
        record = CandidateRecord(
            peer_id=victim.peer_id, sequence=1, expires_s=int(NOW_S) + 60, candidates=()
        ).encode()
        signature = mallory.key.sign(b"another message" if whose == "own" else record)
        send_raw(mallory, Candidates(record=record, signature=signature))

        assert mallory.at_relay.end_reason is EndReason.PROTOCOL_ERROR
        assert alice.at_relay.signed_candidates is None
        assert alice.session.is_open


class TestLife:
    def test_silent_sides_ping_and_a_dead_one_is_given_up(self) -> None:
        world = World(keepalive_s=10)
        alice, bob = world.peer("alice"), world.peer("bob")
        for step in range(1, 60):
            world.now_s += 1
            for side in (alice.at_relay, alice.session, bob.at_relay):
                side.on_tick()
            if step >= 20:  # bob's network is gone
                world.under_way = type(world.under_way)(
                    one for one in world.under_way if one[0] is not bob.relay_carrier
                )
            world.settle()

        assert alice.session.is_open
        assert FrameType.PING in alice.relay_carrier.frames
        assert bob.at_relay.end_reason is EndReason.IDLE
        assert world.counters.sessions_silent == 1

    def test_ping_is_answered_at_once(self) -> None:
        world = World()
        alice = world.peer("alice")
        alice.relay_carrier.frames.clear()
        send_raw(alice, Ping(opaque=b"12345678"))

        assert alice.relay_carrier.frames == [FrameType.PONG]

    def test_ping_before_welcome_ends_the_session_so_that_strangers_fill_no_memory(self) -> None:
        world = World()
        alice = Peer(world, "alice")
        world.under_way.clear()
        alice.relay_carrier.frames.clear()
        with pytest.raises(WireError, match="before WELCOME"):
            alice.at_relay.on_capsule(*frame_value(Ping(opaque=b"12345678")))

        assert FrameType.PONG not in alice.relay_carrier.frames

    def test_peer_that_takes_no_answers_is_cut_off(self) -> None:
        world = World(max_unsent_bytes=100)
        alice = world.peer("alice")
        alice.relay_carrier.is_stalled = True
        for _ in range(20):
            send_raw(alice, Ping(opaque=b"12345678"))

        assert [error.detail for error in world.wire_errors] == ["answers that nobody takes"]
        assert alice.relay_carrier.unsent_bytes < 200

    def test_peer_that_takes_no_news_is_cut_off_at_the_next_tick(self) -> None:
        world = World(max_unsent_bytes=100)
        bob = world.peer("bob")
        bob.relay_carrier.unsent_bytes = 101
        bob.at_relay.on_tick()

        assert bob.at_relay.end_reason is EndReason.IDLE

    @pytest.mark.parametrize(
        ("reason", "code"),
        [
            (EndReason.REVOKED, ErrorCode.REVOKED),
            (EndReason.DRAINED, ErrorCode.DRAINED),
            (EndReason.BYTE_QUOTA, ErrorCode.QUOTA),
        ],
    )
    def test_peer_hears_why_the_gate_ended_its_session(
        self, reason: EndReason, code: ErrorCode
    ) -> None:
        world = World()
        alice, bob = world.peer("alice"), world.peer("bob")
        call = alice.call(bob, DATAGRAMS)
        world.settle()
        alice.at_relay.close(reason)
        world.settle()

        assert alice.closed == (code, "", 0)
        assert call.closed is not None
        assert bob.calls[0].closed == (ErrorCode.PEER_UNAVAILABLE, "")

    def test_restarting_is_told(self) -> None:
        world = World()
        alice = world.peer("alice")
        alice.at_relay.restarting(reconnect_in_ms=250, try_for_ms=9_000)
        world.settle()

        assert alice.heard[-1] == Restarting(reconnect_in_ms=250, try_for_ms=9_000)
