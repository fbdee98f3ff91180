"""The bound UDP session (connect-udp-listen sections 3 to 9), without I/O."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import BindCounters, TunnelCounters
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.contract.request import Method, RelayRequest, Transport
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.tunnels.connect_udp_bind import BindLimits, BoundUdpSession, Inbound
from masque_relay.tunnels.context_table import ContextLimits
from masque_relay.tunnels.peer_policy import PeerPolicy, PeerPolicyLimits
from masque_relay.wire.connect_udp_bind import (
    BindCapsule,
    encode_assign,
    encode_context_id,
    encode_peer,
)
from masque_relay.wire.errors import WireError
from tests.support.http_fakes import FakeClock, FakeGate, FakeLease, FakeMeter, RecordingCarrier

ASSIGN, ACK, CLOSE = BindCapsule
PUBLIC = Endpoint(address=ip_address("198.51.100.1"), port=50_000)
ONE, TWO = ("192.0.2.1", 1_001), ("192.0.2.2", 1_002)
SIX = ("2001:db8::6", 1_006)


def wire(peer: tuple[str, int]) -> bytes:
    return encode_peer(ip_address(peer[0]), peer[1])


class FakeBoundFlow:
    """A BoundUdpFlow that records; reaches IPv4 unless told otherwise."""

    def __init__(self) -> None:
        self.public = (PUBLIC,)
        self.dropped_count = 0
        self.versions = {4}
        self.sent: list[tuple[list[bytes], tuple[str, int]]] = []
        self.is_closed = False

    def reaches(self, peer: Endpoint) -> bool:
        return peer.address.version in self.versions

    def send_batch(self, payloads: Sequence[bytes], peer: tuple[str, int]) -> int:
        self.sent.append((list(payloads), peer))
        return len(payloads)

    def close(self) -> None:
        self.is_closed = True


class Tunnel:
    """A session between a recording carrier and a recording flow."""

    def __init__(
        self,
        *,
        limits: BindLimits | None = None,
        inbound: Inbound = Inbound.POLICY,
        target: tuple[str, int] | None = None,
        max_payload_bytes: int = 1_200,
        listening: bool = True,
    ) -> None:
        self.gate, self.clock = FakeGate(), FakeClock()
        self.may_ask = True
        request = RelayRequest(
            request_id="r",
            transport=Transport.HTTP3,
            method=Method.BIND_UDP,
            target=None,
            credentials=(),
            source=PUBLIC,
        )
        self.lease = FakeLease(request)
        self.counters, self.bind = TunnelCounters(), BindCounters()
        policy = PeerPolicy(
            self.gate,
            self.lease,
            clock=self.clock,
            limits=PeerPolicyLimits(),
            may_ask=lambda: self.may_ask,
            may_ask_unsolicited=lambda: self.may_ask,
        )
        self.session = BoundUdpSession(
            self.lease,
            policy,
            clock=self.clock,
            counters=self.counters,
            bind_counters=self.bind,
            limits=limits or BindLimits(),
            inbound=inbound,
        )
        self.flow = FakeBoundFlow()
        end = None if target is None else Endpoint(address=ip_address(target[0]), port=target[1])
        self.session.bind_flow(self.flow, end)
        self.carrier = RecordingCarrier(max_payload_bytes)
        self.session.attach(self.carrier)
        if listening:
            self.assign(2)

    def assign(self, context_id: int, peer: tuple[str, int] | None = None) -> tuple[int, bytes]:
        value = encode_assign(context_id, None if peer is None else wire(peer))
        self.session.on_capsule(ASSIGN, value)
        return self.carrier.capsules[-1]

    def deny(self, peer: tuple[str, int]) -> None:
        """From the next reload on."""
        denial = Denial(reason=DenyReason.POLICY, detail="no")
        self.gate.prohibited[ip_address(peer[0])] = denial
        self.gate.generation += 1

    def receive(self, source: tuple[str, int], *payloads: bytes) -> None:
        self.session.on_batches([ReceivedBatch(list(payloads), source)])


class TestUplink:
    def test_datagrams_go_to_their_peers_one_batch_each_in_order(self) -> None:
        tunnel = Tunnel()
        tunnel.assign(4, TWO)
        head = b"\x02" + wire(ONE)
        tunnel.session.on_datagrams(
            [head + b"a", head + b"b", b"\x04x", b"\x04y", head + b"c", head, b"\x04z"]
        )
        assert tunnel.flow.sent == [([b"a", b"b", b"c", b""], ONE), ([b"x", b"y", b"z"], TWO)]
        assert (tunnel.counters.uplink_datagrams, tunnel.counters.uplink_bytes) == (7, 6)
        assert tunnel.lease.uplink.byte_count == 6

    def test_longer_spellings_of_a_context_id_are_understood(self) -> None:
        tunnel = Tunnel()
        tunnel.session.on_datagrams([b"\x40\x02" + wire(ONE) + b"a"])
        assert tunnel.flow.sent == [([b"a"], ONE)]

    @pytest.mark.clause(
        "connect-udp-listen-15", "3", "MUST", "abort over context 0 where there is no target"
    )
    def test_context_0_without_a_target_aborts_the_stream(self) -> None:
        tunnel = Tunnel()
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + b"a", b"\x00oops"])
        assert tunnel.carrier.aborted == [EndReason.PROTOCOL_ERROR]
        assert tunnel.session.end_reason is EndReason.PROTOCOL_ERROR
        assert tunnel.flow.is_closed
        assert tunnel.flow.sent == []

    def test_context_0_is_the_target_of_a_request_that_has_one(self) -> None:
        tunnel = Tunnel(target=TWO, listening=False)
        tunnel.session.on_datagrams([b"\x00query"])
        assert tunnel.flow.sent == [([b"query"], TWO)]
        tunnel.receive(TWO, b"answer")
        assert tunnel.carrier.datagrams == [b"\x00answer"]

    @pytest.mark.clause(
        "connect-udp-listen-15", "3.3", "MUST", "discard datagrams of a closed context silently"
    )
    def test_unknown_and_closed_contexts_are_dropped_and_counted(self) -> None:
        tunnel = Tunnel()
        tunnel.assign(4, TWO)
        tunnel.session.on_capsule(CLOSE, b"\x04")
        tunnel.session.on_datagrams([b"\x04late", b"\x08never", b"", b"\x40"])
        assert tunnel.flow.sent == []
        assert tunnel.counters.unknown_context_dropped == 4
        assert tunnel.session.end_reason is None

    @pytest.mark.parametrize("rest", [b"", b"\x00", b"\x05abcdefgh", b"\x04abc", b"\x06abcdefgh"])
    def test_uncompressed_datagram_without_a_peer_is_dropped(self, rest: bytes) -> None:
        tunnel = Tunnel()
        tunnel.session.on_datagrams([b"\x02" + rest, b"\x02" + wire(ONE) + b"good"])
        assert tunnel.flow.sent == [([b"good"], ONE)]
        assert tunnel.bind.malformed_dropped == 1

    @pytest.mark.parametrize("peer", [SIX, ("::ffff:192.0.2.1", 1_001), ("192.0.2.1", 0)])
    def test_peer_that_cannot_be_reached_is_dropped(self, peer: tuple[str, int]) -> None:
        tunnel = Tunnel()
        tunnel.session.on_datagrams([b"\x02" + wire(peer) + b"a"])
        assert tunnel.flow.sent == []
        assert tunnel.bind.unreachable_dropped == 1
        assert tunnel.assign(4, peer) == (CLOSE, b"\x04")
        assert tunnel.gate.addresses == []

    @pytest.mark.clause("RFC 9298", "5", "MUST", "abort over a payload longer than UDP can carry")
    def test_payload_longer_than_udp_aborts(self) -> None:
        tunnel = Tunnel()
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + bytes(65_527)])
        assert tunnel.session.end_reason is None
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + bytes(65_528)])
        assert tunnel.carrier.aborted == [EndReason.PROTOCOL_ERROR]

    def test_rate_drops_what_does_not_fit_and_counts_it(self) -> None:
        tunnel = Tunnel()
        tunnel.lease.uplink.budget_bytes = 2
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + bytes([n]) for n in range(4)])
        assert tunnel.flow.sent == [([b"\x00", b"\x01"], ONE)]
        assert tunnel.counters.rate_dropped == 2

    def test_batch_that_uses_up_the_quota_ends_the_tunnel_before_it_is_sent(self) -> None:
        tunnel = Tunnel()

        class LastMeter(FakeMeter):
            def take(self, datagram_count: int, byte_count: int) -> bool:
                tunnel.session.close(EndReason.BYTE_QUOTA)
                return True

        tunnel.session._uplink = LastMeter()
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + b"a", b"\x02" + wire(TWO) + b"b"])
        assert tunnel.flow.sent == []


class TestPolicy:
    def test_each_peer_is_asked_about_once(self) -> None:
        tunnel = Tunnel()
        for _ in range(3):
            tunnel.session.on_datagrams([b"\x02" + wire(ONE) + b"a"])
            tunnel.receive(ONE, b"b")
        assert tunnel.gate.addresses == [(ip_address("192.0.2.1"), 1_001)]

    def test_refused_peers_get_and_give_nothing(self) -> None:
        tunnel = Tunnel()
        tunnel.deny(ONE)
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + b"a", b"\x02" + wire(TWO) + b"b"])
        tunnel.receive(ONE, b"c", b"d")
        assert tunnel.flow.sent == [([b"b"], TWO)]
        assert tunnel.carrier.datagrams == []
        assert tunnel.bind.denied_dropped == tunnel.session.denied_count == 3

    def test_refused_peer_gets_no_context(self) -> None:
        tunnel = Tunnel()
        tunnel.deny(ONE)
        assert tunnel.assign(4, ONE) == (CLOSE, b"\x04")
        assert tunnel.bind.contexts_rejected == 1

    @pytest.mark.parametrize("direction", ["up", "down"])
    def test_peer_that_a_reload_refuses_loses_its_context(self, direction: str) -> None:
        tunnel = Tunnel()
        tunnel.assign(4, ONE)
        tunnel.deny(ONE)
        if direction == "up":
            tunnel.session.on_datagrams([b"\x04a"])
        else:
            tunnel.receive(ONE, b"a")
        assert tunnel.carrier.capsules[-1] == (CLOSE, b"\x04")
        assert tunnel.flow.sent == []
        assert tunnel.carrier.datagrams == []

    def test_flood_of_new_peers_is_dropped_and_costs_no_context(self) -> None:
        tunnel = Tunnel()
        tunnel.assign(4, ONE)
        tunnel.may_ask = False
        tunnel.session.on_datagrams([b"\x02" + wire(TWO) + b"a", b"\x04b"])
        tunnel.receive(TWO, b"c")
        assert tunnel.flow.sent == [([b"b"], ONE)]
        assert tunnel.bind.unasked_dropped == 2
        assert tunnel.session.denied_count == 0


class TestDownlink:
    def test_stranger_comes_uncompressed_and_a_registered_peer_compressed(self) -> None:
        tunnel = Tunnel()
        tunnel.assign(4, TWO)
        tunnel.receive(ONE, b"a", b"")
        tunnel.receive(TWO, b"b")
        assert tunnel.carrier.datagrams == [
            b"\x02" + wire(ONE) + b"a",
            b"\x02" + wire(ONE),
            b"\x04b",
        ]
        assert (tunnel.counters.downlink_datagrams, tunnel.counters.downlink_bytes) == (3, 2)

    @pytest.mark.parametrize("ever", [False, True])
    def test_stranger_is_dropped_without_the_uncompressed_context(self, ever: bool) -> None:
        tunnel = Tunnel(listening=ever)
        if ever:
            tunnel.session.on_capsule(CLOSE, b"\x02")
        tunnel.receive(ONE, b"knock")
        assert tunnel.carrier.datagrams == []
        assert tunnel.bind.unregistered_dropped == 1
        assert tunnel.gate.addresses == []

    def test_link_local_source_with_a_zone_is_dropped(self) -> None:
        tunnel = Tunnel()
        tunnel.receive(("fe80::1%2", 5), b"a")
        assert tunnel.bind.unreachable_dropped == 1

    def test_spelling_of_an_address_by_the_kernel_does_not_matter(self) -> None:
        tunnel = Tunnel()
        tunnel.flow.versions.add(6)
        tunnel.assign(4, ("::c000:201", 7))
        tunnel.receive(("::192.0.2.1", 7), b"a")
        assert tunnel.carrier.datagrams == [b"\x04a"]

    def test_oversize_is_dropped_and_counted(self) -> None:
        tunnel = Tunnel(max_payload_bytes=20)
        tunnel.receive(ONE, bytes(12), bytes(13))
        assert tunnel.carrier.datagrams == [b"\x02" + wire(ONE) + bytes(12)]
        assert tunnel.session.oversize_downlink_count == 1
        tunnel.receive(ONE, bytes(13))
        assert tunnel.counters.oversize_downlink_dropped == 2

    def test_rate_drops_downlink_too(self) -> None:
        tunnel = Tunnel()
        tunnel.lease.downlink.budget_bytes = 1
        tunnel.receive(ONE, b"a", b"b")
        assert len(tunnel.carrier.datagrams) == 1
        assert tunnel.counters.rate_dropped == 1

    def test_contacted_lets_in_addresses_that_were_sent_to_for_a_while(self) -> None:
        tunnel = Tunnel(inbound=Inbound.CONTACTED)
        tunnel.receive(ONE, b"early")
        assert tunnel.bind.uncontacted_dropped == 1
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + b"call"])
        other_port = (ONE[0], 9)
        tunnel.receive(other_port, b"answer")
        assert tunnel.carrier.datagrams == [b"\x02" + wire(other_port) + b"answer"]
        tunnel.clock.now_s += 300.0
        tunnel.receive(ONE, b"late")
        assert tunnel.bind.uncontacted_dropped == 2

    def test_contacted_takes_a_registered_peer_for_asked(self) -> None:
        tunnel = Tunnel(inbound=Inbound.CONTACTED)
        tunnel.assign(4, ONE)
        tunnel.receive(ONE, b"a")
        assert tunnel.carrier.datagrams == [b"\x04a"]

    def test_contacted_addresses_are_bounded(self) -> None:
        tunnel = Tunnel(inbound=Inbound.CONTACTED, limits=BindLimits(peers=1))
        for peer in (ONE, TWO):
            tunnel.session.on_datagrams([b"\x02" + wire(peer) + b"a"])
        tunnel.receive(ONE, b"forgotten")
        tunnel.receive(TWO, b"known")
        assert tunnel.carrier.datagrams == [b"\x02" + wire(TWO) + b"known"]


class TestClientContexts:
    def test_registrations_are_answered_and_counted(self) -> None:
        tunnel = Tunnel(limits=BindLimits(contexts=ContextLimits(theirs=2)))
        answers = [tunnel.assign(4, ONE)[0], tunnel.assign(6, TWO)[0]]
        assert answers == [ACK, CLOSE]
        assert tunnel.bind.contexts_opened == 2
        assert tunnel.bind.contexts_rejected == 1

    def test_target_of_the_request_may_have_a_context_too(self) -> None:
        tunnel = Tunnel(target=TWO)
        assert tunnel.assign(4, TWO) == (ACK, b"\x04")
        tunnel.session.on_datagrams([b"\x00long", b"\x04short"])
        tunnel.receive(TWO, b"back")
        assert tunnel.flow.sent == [([b"long"], TWO), ([b"short"], TWO)]
        assert tunnel.carrier.datagrams == [b"\x04back"]


class TestRelayContexts:
    def test_peer_that_goes_on_gets_a_context_once_the_client_acknowledges_it(self) -> None:
        tunnel = Tunnel(limits=BindLimits(compress_after_datagrams=2))
        tunnel.receive(ONE, b"1")
        assert len(tunnel.carrier.capsules) == 1
        tunnel.receive(ONE, b"2")
        assert tunnel.carrier.capsules[-1] == (ASSIGN, b"\x01" + wire(ONE))
        tunnel.receive(ONE, b"3")
        tunnel.session.on_capsule(ACK, b"\x01")
        tunnel.receive(ONE, b"4")
        tunnel.session.on_datagrams([b"\x01back"])
        head = b"\x02" + wire(ONE)
        assert tunnel.carrier.datagrams == [head + b"1", head + b"2", head + b"3", b"\x014"]
        assert tunnel.flow.sent == [([b"back"], ONE)]

    def test_no_further_one_after_the_limit(self) -> None:
        limits = BindLimits(compress_after_datagrams=1, contexts=ContextLimits(ours=1))
        tunnel = Tunnel(limits=limits)
        tunnel.receive(ONE, b"1")
        tunnel.receive(TWO, b"2")
        assert [kind for kind, _ in tunnel.carrier.capsules] == [ACK, ASSIGN]


class TestLimits:
    @pytest.mark.clause(
        "connect-udp-listen-15", "9", "MUST", "abort when answers can't leave and pile up"
    )
    def test_answers_that_pile_up_abort_the_stream(self) -> None:
        tunnel = Tunnel(limits=BindLimits(reply_backlog_bytes=1_000))
        tunnel.carrier.unsent_bytes = 1_000
        tunnel.assign(4, ONE)
        assert tunnel.carrier.aborted == []
        tunnel.carrier.unsent_bytes = 1_001
        tunnel.session.on_capsule(ASSIGN, encode_assign(6, wire(TWO)))
        assert tunnel.carrier.aborted == [EndReason.PROTOCOL_ERROR]
        assert tunnel.flow.is_closed

    def test_forged_sources_cost_no_record_before_the_policy_admits_them(self) -> None:
        tunnel = Tunnel()
        tunnel.may_ask = False
        for port in range(1, 100):
            tunnel.receive((ONE[0], port), b"flood")
        assert len(tunnel.session._peers) == 0
        assert tunnel.bind.unasked_dropped == 99
        assert tunnel.carrier.datagrams == []

    def test_peers_are_remembered_up_to_a_limit(self) -> None:
        tunnel = Tunnel(limits=BindLimits(peers=8))
        for port in range(1, 100):
            tunnel.session.on_datagrams([b"\x02" + wire((ONE[0], port)) + b"a"])
            tunnel.receive((TWO[0], port), b"b")
        assert len(tunnel.session._peers) == 8
        assert len(tunnel.flow.sent) == 99

    def test_malformed_capsule_is_the_front_ends_to_abort_over(self) -> None:
        tunnel = Tunnel()
        with pytest.raises(WireError):
            tunnel.session.on_capsule(ACK, encode_context_id(2))


class TestEnds:
    def test_close_ends_the_stream_and_the_flow_once(self) -> None:
        tunnel = Tunnel()
        tunnel.session.close(EndReason.DRAINED)
        tunnel.session.close(EndReason.BUG)
        assert tunnel.carrier.is_finished
        assert tunnel.carrier.aborted == []
        assert tunnel.session.end_reason is EndReason.DRAINED
        tunnel.session.on_datagrams([b"\x02" + wire(ONE) + b"a"])
        tunnel.receive(ONE, b"b")
        tunnel.session.on_capsule(CLOSE, b"\x02")
        assert tunnel.flow.sent == []
        assert tunnel.carrier.datagrams == []

    def test_flow_that_comes_too_late_is_closed(self) -> None:
        tunnel = Tunnel()
        tunnel.session.ended(EndReason.PEER_RESET)
        late = FakeBoundFlow()
        tunnel.session.bind_flow(late)
        assert late.is_closed

    def test_carrier_that_comes_too_late_is_ended(self) -> None:
        tunnel = Tunnel()
        tunnel.session.ended(EndReason.KICKED)
        carrier = RecordingCarrier()
        tunnel.session.attach(carrier)
        assert carrier.aborted == [EndReason.KICKED]
