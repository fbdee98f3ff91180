"""Datagrams: what passes, in which form, and what is dropped."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from fallbacks.turn.path import RelayAddress
from masque_relay.contract.address import Endpoint
from masque_relay.contract.relay_socket import PeerError
from masque_relay.contract.turn_limits import TurnLimits
from masque_relay.stun.channel_data import encode_channel_head
from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from tests.support.turn_client import Reply
from tests.support.turn_rig import (
    OTHER_PEER,
    PEER,
    PEER_V6,
    POLICY,
    RigClient,
    TurnRig,
)
from tests.unit.fallbacks.turn.conftest import MakeRig

NUMBER = 0x4000
TO_PEER = ("8.8.8.8", 5000)


@pytest.fixture
def client(rig: TurnRig) -> RigClient:
    made = rig.client()
    made.allocate()
    assert made.bind_channel(NUMBER, PEER).ok
    made.received()
    return made


class TestUplink:
    def test_a_burst_of_one_channel_leaves_as_one_batch(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        client.send_channel(NUMBER, *[b"%02d" % index for index in range(20)])
        assert rig.relay_sockets[0].sent == [
            ([b"%02d" % index for index in range(20)], TO_PEER, False)
        ]
        assert client.allocation.lease.uplink.datagram_count == 20
        assert client.allocation.lease.uplink.byte_count == 40
        assert rig.tunnels.uplink_datagrams == 20
        assert rig.tunnels.uplink_bytes == 40

    def test_mixed_sizes_and_channels_keep_their_order(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        client.bind_channel(0x4001, OTHER_PEER)
        messages = [
            encode_channel_head(number, len(data)) + data
            for number, data in ((NUMBER, b"a"), (NUMBER, b"bb"), (0x4001, b"c"), (NUMBER, b"d"))
        ]
        rig.session.on_batch(client.path, messages)
        sent = [(payloads, to[0]) for payloads, to, _ in rig.relay_sockets[0].sent]
        assert sent == [([b"a", b"bb"], "8.8.8.8"), ([b"c"], "8.8.4.4"), ([b"d"], "8.8.8.8")]

    def test_padding_behind_the_data_is_left_out(self, rig: TurnRig, client: RigClient) -> None:
        client.deliver(encode_channel_head(NUMBER, 3) + b"abc\0")
        assert rig.relay_sockets[0].sent[0][0] == [b"abc"]

    def test_an_empty_datagram_is_a_datagram(self, rig: TurnRig, client: RigClient) -> None:
        client.send_channel(NUMBER, b"")
        assert rig.relay_sockets[0].sent[0][0] == [b""]

    @pytest.mark.parametrize(
        "message", [b"\x40", b"\x40\x00\x00", b"\x40\x00\x00\x05abcd", b"\x4f\xff\x00\x01a"]
    )
    def test_what_is_cut_short_or_not_bound_is_dropped(
        self, rig: TurnRig, client: RigClient, message: bytes
    ) -> None:
        client.deliver(message)
        assert rig.relay_sockets[0].sent == []
        assert rig.counters.no_channel == 1

    def test_one_that_is_cut_short_does_not_hide_among_good_ones(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        good = encode_channel_head(NUMBER, 4) + b"good"
        rig.session.on_batch(client.path, [good, good[:-1], good])
        assert [payloads for payloads, _, _ in rig.relay_sockets[0].sent] == [[b"good", b"good"]]

    def test_a_send_indication_needs_a_permission(self, rig: TurnRig, client: RigClient) -> None:
        client.send_indication(OTHER_PEER, b"x")
        assert rig.counters.no_permission == 1
        client.permit(OTHER_PEER)
        client.send_indication(OTHER_PEER, b"x")
        assert rig.relay_sockets[0].sent == [([b"x"], ("8.8.4.4", 5000), False)]

    def test_every_port_that_is_sent_to_is_asked_of_the_gate(self, make_rig: MakeRig) -> None:
        rig = make_rig(policy=POLICY.replace('["*:*"]', '["*:5000"]'))
        client = rig.client()
        client.allocate()
        assert client.permit(PEER).ok
        client.send_indication(PEER, b"allowed")
        client.send_indication(Endpoint(address=PEER.address, port=22), b"denied")
        assert [payloads for payloads, _, _ in rig.relay_sockets[0].sent] == [[b"allowed"]]
        assert rig.counters.denied == 1

    def test_dont_fragment_holds_for_that_datagram(self, rig: TurnRig, client: RigClient) -> None:
        client.send_indication(PEER, b"whole", [(Attribute.DONT_FRAGMENT, b"")])
        client.send_indication(PEER, b"any")
        assert [forbids for _, _, forbids in rig.relay_sockets[0].sent] == [True, False]

    @pytest.mark.parametrize(
        "attributes",
        [[], [(0x0012, b"\0\1")], [(0x0013, b"x"), (0x7F00, b"")]],
        ids=["nothing", "short address", "unknown attribute"],
    )
    def test_a_bad_send_indication_is_dropped_silently(
        self, rig: TurnRig, client: RigClient, attributes: list[tuple[int, bytes]]
    ) -> None:
        data = client.build(
            Method.SEND, attributes, message_class=MessageClass.INDICATION, signed=False
        )
        assert client.deliver(data) == []
        assert rig.relay_sockets[0].sent == []
        assert rig.counters.malformed == 1

    def test_the_endpoints_that_the_gate_is_asked_about_are_bounded(
        self, make_rig: MakeRig
    ) -> None:
        rig = make_rig(limits=TurnLimits(peers_per_allocation=2))
        client = rig.client()
        client.allocate()
        client.permit(PEER)
        for port in (1, 2, 3):
            client.send_indication(Endpoint(address=PEER.address, port=port), b"x")
        assert len(rig.relay_sockets[0].sent) == 2
        assert rig.counters.denied == 1


class TestDownlink:
    def arrive(self, rig: TurnRig, peer: Endpoint, *payloads: bytes) -> None:
        rig.relay_sockets[0].arrive(peer, *payloads)
        rig.readable(rig.relay_sockets[0])

    def test_a_bound_peer_comes_as_channel_data(self, rig: TurnRig, client: RigClient) -> None:
        self.arrive(rig, PEER, b"one", b"two", b"three")
        assert client.received() == [
            b"\x40\x00\x00\x03one", b"\x40\x00\x00\x03two", b"\x40\x00\x00\x05three",
        ]  # fmt: skip
        assert client.allocation.lease.downlink.datagram_count == 3
        assert rig.tunnels.downlink_datagrams == 3
        assert rig.tunnels.downlink_bytes == 11

    def test_others_come_as_data_indications(self, rig: TurnRig, client: RigClient) -> None:
        client.permit(OTHER_PEER)
        client.received()
        self.arrive(rig, OTHER_PEER, b"hello")
        (message,) = client.received_messages()
        assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
        assert message.get(Attribute.DATA) == b"hello"
        assert Reply(message).address(Attribute.XOR_PEER_ADDRESS) == OTHER_PEER

    def test_without_a_permission_nothing_comes(self, rig: TurnRig, client: RigClient) -> None:
        self.arrive(rig, OTHER_PEER, b"x", b"y")
        assert client.received() == []
        assert rig.counters.no_permission == 2

    def test_a_permission_counts_for_every_port_of_the_address(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        self.arrive(rig, Endpoint(address=PEER.address, port=9), b"x")
        assert len(client.received()) == 1

    def test_a_channel_does_not_outlive_its_permission_for_peers(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        rig.advance(301)
        client.received()
        self.arrive(rig, PEER, b"x")
        assert client.received() == []

    def test_what_the_client_does_not_take_is_counted(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        client.path.takes = False
        self.arrive(rig, PEER, b"x", b"y")
        assert rig.counters.client_dropped == 2

    def test_ipv6_peers_of_an_allocation_with_both_families(self, rig: TurnRig) -> None:
        client = rig.client()
        client.try_allocate([(Attribute.ADDITIONAL_ADDRESS_FAMILY, b"\2\0\0\0")])
        client.permit(PEER_V6)
        client.received()
        rig.relay_sockets[1].arrive(PEER_V6, b"six")
        rig.readable(rig.relay_sockets[1])
        (message,) = client.received_messages()
        assert Reply(message).address(Attribute.XOR_PEER_ADDRESS) == PEER_V6


class TestIcmp:
    def test_an_error_of_a_permitted_peer_is_told(self, rig: TurnRig, client: RigClient) -> None:
        rig.relay_sockets[0].errors.append(
            PeerError(peer=PEER, icmp_type=3, icmp_code=4, mtu_bytes=1400)
        )
        rig.readable(rig.relay_sockets[0])
        (message,) = client.received_messages()
        assert message.method == Method.DATA
        assert message.get(Attribute.ICMP) == bytes.fromhex("0000 0304 00000578")
        assert message.get(Attribute.DATA) is None
        assert Reply(message).address(Attribute.XOR_PEER_ADDRESS) == PEER
        assert rig.counters.icmp_reported == 1

    def test_others_are_nobodys_business(self, rig: TurnRig, client: RigClient) -> None:
        rig.relay_sockets[0].errors.append(
            PeerError(peer=OTHER_PEER, icmp_type=3, icmp_code=3, mtu_bytes=0)
        )
        rig.readable(rig.relay_sockets[0])
        assert client.received() == []


class TestLimits:
    def test_the_rate_of_the_rule_holds_each_way(self, make_rig: MakeRig) -> None:
        policy = POLICY + "limits = { rate_datagrams_per_s = 10 }\n"
        rig = make_rig(policy=policy)
        client = rig.client()
        client.allocate()
        client.bind_channel(NUMBER, PEER)
        client.received()
        client.send_channel(NUMBER, *[b"x"] * 25)
        assert sum(len(payloads) for payloads, _, _ in rig.relay_sockets[0].sent) == 10
        rig.relay_sockets[0].arrive(PEER, *[b"x"] * 25)
        rig.readable(rig.relay_sockets[0])
        assert len(client.received()) == 10
        client.send_channel(NUMBER, b"x")
        assert rig.tunnels.rate_dropped == 31

    def test_the_bytes_of_the_rule_end_the_allocation(self, make_rig: MakeRig) -> None:
        rig = make_rig(policy=POLICY + "limits = { max_bytes = 100 }\n")
        client = rig.client()
        client.allocate()
        client.bind_channel(NUMBER, PEER)
        client.send_channel(NUMBER, bytes(60))
        client.send_channel(NUMBER, bytes(60))
        rig.advance(1)
        assert rig.session.allocations == set()
        assert rig.bench.audit.of("tunnel_end")[0]["reason"] == "byte_quota"


class TestRelayedToRelayed:
    def test_two_clients_reach_each_other_without_the_nat(self, make_rig: MakeRig) -> None:
        inside, outside = ip_address("10.1.2.3"), ip_address("198.51.100.9")
        policy = (
            POLICY
            + '\n[[rule]]\nname = "own"\naction = "allow"\nwho = ["*"]\n'
            + ('methods = ["bind-udp"]\ntargets = ["198.51.100.9/32:*"]\n')
        )
        rig = make_rig(policy=policy, relay_addresses=(RelayAddress(local=inside, public=outside),))
        rig.own_addresses.add(outside)
        one, other = rig.client(), rig.client("bob", path=rig.path(port=40_001))
        first, second = one.allocate(), other.allocate()
        assert one.bind_channel(NUMBER, second).ok
        assert other.permit(first).ok
        other.received()
        one.send_channel(NUMBER, b"hi")
        assert rig.relay_sockets[0].sent == [([b"hi"], ("10.1.2.3", second.port), False)]
        rig.relay_sockets[1].arrive(rig.relay_sockets[0].local, b"hi")
        rig.readable(rig.relay_sockets[1])
        (message,) = other.received_messages()
        assert Reply(message).address(Attribute.XOR_PEER_ADDRESS) == first

    def test_the_relays_own_quic_port_is_reached_and_nothing_beside_it(
        self, make_rig: MakeRig
    ) -> None:
        rig = make_rig()
        rig.own_addresses.add(PEER.address)
        rig.own_listeners.add(PEER)
        client = rig.client()
        client.allocate()
        assert client.bind_channel(NUMBER, PEER).ok
        beside = Endpoint(address=PEER.address, port=22)
        assert client.bind_channel(0x4001, beside).error == 403
        client.send_channel(NUMBER, b"hello")
        assert rig.relay_sockets[0].sent == [([b"hello"], TO_PEER, False)]

    def test_a_bound_udp_tunnel_on_the_hosts_own_address_is_reached_and_nothing_beside_it(
        self, make_rig: MakeRig
    ) -> None:
        rig = make_rig()
        rig.own_addresses.add(PEER.address)
        rig.services.settings = replace(
            rig.services.settings,
            relay_addresses=(RelayAddress(local=PEER.address, public=PEER.address),),
        )
        rig.relayed_elsewhere.add(TO_PEER)
        client = rig.client()
        client.allocate()
        assert client.bind_channel(NUMBER, PEER).ok
        beside = Endpoint(address=PEER.address, port=22)
        assert client.bind_channel(0x4001, beside).error == 403
