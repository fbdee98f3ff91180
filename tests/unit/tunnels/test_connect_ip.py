"""The CONNECT-IP session (RFC 9484), without I/O."""

import struct
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ip_scope import IpRange, IpScope
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ADDRESS_REQUEST,
    ROUTE_ADVERTISEMENT,
    encode_addresses,
    encode_routes,
)
from masque_relay.wire.errors import WireError
from masque_relay.wire.icmp import echo_reply
from tests.support.http_fakes import FakeMeter
from tests.support.ip_packets import (
    has_good_checksums,
    icmp_kind,
    ipv4,
    ipv6,
    ping4,
    ping6,
    source_of,
    udp,
)
from tests.support.ip_rig import wants
from tests.support.ip_session import (
    CLIENT4,
    CLIENT6,
    EVERYWHERE,
    HOST4,
    HOST6,
    RELAY4,
    RELAY6,
    SessionBench,
    session_table,
)

OUT4, OUT6 = ipv4(CLIENT4, HOST4, udp(b"x")), ipv6(CLIENT6, HOST6, udp(b"x"))
IN4, IN6 = ipv4(HOST4, CLIENT4, udp(b"x")), ipv6(HOST6, CLIENT6, udp(b"x"))


def to4(destination: str, *, port: int = 53, ttl: int = 64, size: int = 1) -> bytes:
    return ipv4(CLIENT4, destination, udp(bytes(size), port=port), ttl=ttl)


def to6(destination: str, *, size: int = 1) -> bytes:
    return ipv6(CLIENT6, destination, udp(bytes(size)))


def bench(**options: object) -> SessionBench:
    return SessionBench(**options).open()  # type: ignore[arg-type]  # handed through


class TestOpening:
    def test_the_client_is_told_addresses_then_routes_then_the_rest(self) -> None:
        tunnel = bench(extra_capsules=[(0x1ACE79EC, b"dns")])
        assert [kind for kind, _ in tunnel.carrier.capsules] == [
            ADDRESS_ASSIGN,
            ROUTE_ADVERTISEMENT,
            0x1ACE79EC,
        ]
        assert [str(entry.network) for entry in tunnel.assigned] == [
            "10.71.0.2/32",
            "fd71::2/128",
        ]
        assert tunnel.attachment.addresses == [CLIENT4, CLIENT6]
        assert tunnel.ip.addresses_assigned == 2

    def test_routes_are_what_policy_leaves_of_the_egress(self) -> None:
        routes = bench().routes
        first = routes[0]
        assert (str(first.first), str(first.last)) == ("1.0.0.0", "9.255.255.255")
        inside = [route for route in routes if str(route.first) == "198.18.6.7"]
        assert inside  # 198.18.6.6 is refused whole; 198.18.0.0/16:25 leaves other ports
        loopback = int(ip_address("127.0.0.1"))
        assert not any(int(route.first) <= loopback <= int(route.last) for route in routes)

    def test_a_scope_limits_routes_and_families(self) -> None:
        tunnel = bench(scope=IpScope(target=ip_network("198.18.0.0/24"), ip_protocol=17))
        assert tunnel.routes == (IpRange(ip_address("198.18.0.0"), ip_address("198.18.0.255"), 17),)
        assert [str(entry.network) for entry in tunnel.assigned] == ["10.71.0.2/32"]

    def test_a_scope_without_a_route_is_refused(self) -> None:
        tunnel = SessionBench()
        with pytest.raises(FlowError) as caught:
            tunnel.session.open([ip_network("127.0.0.0/8")], {})
        assert caught.value.fault is FlowFault.DESTINATION_IP_UNROUTABLE
        assert tunnel.pool.assigned_count == 0

    def test_an_exhausted_pool_is_refused(self) -> None:
        tunnel = SessionBench(pools=["10.71.0.0/30"])
        tunnel.pool.assign(4)
        with pytest.raises(FlowError) as caught:
            tunnel.session.open(None, {})
        assert caught.value.fault is FlowFault.RESOURCES

    def test_an_egress_that_will_not_have_us_gets_its_addresses_back(self) -> None:
        tunnel = SessionBench()
        tunnel.egress.fault = FlowFault.DESTINATION_UNAVAILABLE
        with pytest.raises(FlowError):
            tunnel.session.open(None, {})
        tunnel.session.ended(EndReason.TARGET_FAILED)
        assert tunnel.pool.assigned_count == 0
        assert tunnel.ip.addresses_assigned == 0

    def test_a_session_closed_before_it_opens_takes_nothing(self) -> None:
        tunnel = SessionBench()
        tunnel.session.close(EndReason.REVOKED)
        tunnel.session.open(None, {})
        tunnel.session.attach(tunnel.carrier)
        assert tunnel.pool.assigned_count == 0
        assert tunnel.carrier.aborted == [EndReason.REVOKED]


class TestUplink:
    def test_packets_leave_in_one_batch_as_they_are(self) -> None:
        tunnel = bench()
        packets = [OUT4, OUT6, ping4(CLIENT4, HOST4)]
        assert tunnel.up(*packets) == packets
        assert tunnel.attachment.batches == [3]
        assert tunnel.counters.uplink_datagrams == 3
        assert tunnel.counters.uplink_bytes == sum(map(len, packets))
        assert tunnel.lease.uplink.byte_count == sum(map(len, packets))

    @pytest.mark.clause("RFC 9484", "7.2", "MUST", "the hop count stays when a packet is unpacked")
    def test_hop_limit_is_not_touched_on_the_way_in(self) -> None:
        packet = ipv4(CLIENT4, HOST4, udp(b"x"), ttl=1)
        assert bench().up(packet) == [packet]

    @pytest.mark.clause("RFC 9484", "6", "MUST", "drop or buffer unknown context IDs silently")
    @pytest.mark.parametrize("payload", [b"", b"\x40", b"\x02" + OUT4, b"\x7f\xff" + OUT4])
    def test_other_contexts_are_dropped_and_the_tunnel_goes_on(self, payload: bytes) -> None:
        tunnel = bench()
        tunnel.session.on_datagrams([payload, b"\0" + OUT4])
        assert tunnel.attachment.sent == [OUT4]
        assert tunnel.counters.unknown_context_dropped == 1
        assert tunnel.heard() == []

    @pytest.mark.clause("RFC 9484", "2", "MUST", "context 0 in any spelling of an integer")
    def test_a_longer_spelling_of_context_zero(self) -> None:
        tunnel = bench()
        tunnel.session.on_datagrams([b"\x40\0" + OUT4, b"\xc0" + bytes(7) + OUT6])
        assert tunnel.attachment.sent == [OUT4, OUT6]

    @pytest.mark.clause("RFC 9484", "11", "MUST", "refuse spoofed source addresses (BCP 38)")
    @pytest.mark.parametrize(
        ("packet", "kind"),
        [
            (ipv4("10.71.0.3", HOST4, udp(b"x")), (3, 13)),
            (ipv4(HOST4, HOST4, udp(b"x")), (3, 13)),
            (ipv4(RELAY4, HOST4, udp(b"x")), (3, 13)),
            (ipv6("fd71::3", HOST6, udp(b"x")), (1, 5)),
            (ipv6("fe80::1", HOST6, udp(b"x")), (1, 5)),
            (ipv6("::a47:2", HOST6, udp(b"x")), (1, 5)),  # 10.71.0.2 as IPv6 has it
        ],
    )
    def test_spoofed_source_goes_nowhere(self, packet: bytes, kind: tuple[int, int]) -> None:
        tunnel = bench()
        assert tunnel.up(packet, OUT4) == [OUT4]
        assert tunnel.ip.uplink_bad_source == 1
        (message,) = tunnel.heard()
        assert icmp_kind(message) == kind
        assert tunnel.session.end_reason is None

    @pytest.mark.parametrize(
        ("packet", "counter", "kind"),
        [
            pytest.param(to4("198.18.6.6"), "uplink_no_route", (3, 0), id="denied whole"),
            pytest.param(to4("192.168.1.1"), "uplink_no_route", (3, 0), id="private"),
            pytest.param(to6("fd00::1"), "uplink_no_route", (1, 0), id="private IPv6"),
            pytest.param(to4(HOST4, port=25), "uplink_prohibited", (3, 13), id="denied port"),
            pytest.param(to4("9.9.9.9"), "uplink_prohibited", (3, 13), id="by default"),
            pytest.param(to6("2620:fe::9"), "uplink_prohibited", (1, 1), id="IPv6 by default"),
            pytest.param(to4(HOST4, ttl=0), "uplink_hop_limit", (11, 0), id="hop limit"),
            pytest.param(to4(HOST4, size=1_473), "uplink_too_big", (3, 4), id="size"),
            pytest.param(to6(HOST6, size=1_453), "uplink_too_big", (2, 0), id="IPv6 size"),
        ],
    )
    def test_what_goes_no_further_is_counted_and_told(
        self, packet: bytes, counter: str, kind: tuple[int, int]
    ) -> None:
        tunnel = bench()
        assert tunnel.up(packet, OUT4) == [OUT4]
        assert getattr(tunnel.ip, counter) == 1
        (message,) = tunnel.heard()
        assert icmp_kind(message) == kind
        assert source_of(message) in {RELAY4, RELAY6}
        assert has_good_checksums(message)

    def test_every_counter_of_the_uplink(self) -> None:
        tunnel = bench(scope=IpScope(ip_protocol=17))
        tunnel.attachment.room = 0
        tunnel.up(
            b"nothing",
            ipv4(HOST4, HOST4),
            ipv4(CLIENT4, "198.18.6.6", udp(b"")),
            ipv4(CLIENT4, HOST4, udp(b"", port=25)),
            ipv4(CLIENT4, HOST4, udp(b""), ttl=0),
            ipv4(CLIENT4, HOST4, udp(bytes(1_473))),
            ipv4(CLIENT4, HOST4, bytes(20), protocol=47),
            OUT4,
        )
        ip = tunnel.ip
        assert ip.uplink_malformed == 1
        assert ip.uplink_bad_source == 1
        assert ip.uplink_no_route == 1
        assert ip.uplink_prohibited == 1
        assert ip.uplink_hop_limit == 1
        assert ip.uplink_too_big == 1
        assert ip.uplink_wrong_protocol == 1
        assert ip.uplink_egress_full == 1
        assert tunnel.counters.uplink_datagrams == 0

    @pytest.mark.clause("RFC 9484", "4.6", "MUST", "ipproto limits what may be sent, ICMP aside")
    def test_scope_of_protocol(self) -> None:
        tunnel = bench(scope=IpScope(ip_protocol=17))
        tcp = ipv4(CLIENT4, HOST4, struct.pack(">HH", 1, 80) + bytes(16), protocol=6)
        hidden = ipv6(CLIENT6, HOST6, b"\x11\0" + bytes(6) + udp(b"x"), protocol=60)
        pings = [ping4(CLIENT4, HOST4), ping6(CLIENT6, HOST6)]
        assert tunnel.up(tcp, hidden, OUT4, *pings) == [hidden, OUT4, *pings]
        assert tunnel.ip.uplink_wrong_protocol == 1
        assert {route.ip_protocol for route in tunnel.routes} == {17}

    @pytest.mark.clause("RFC 9484", "7.2", "MUST NOT", "forward link-local traffic")
    @pytest.mark.parametrize(
        "packet",
        [
            ipv4(CLIENT4, "169.254.169.254", udp(b"x")),
            ipv4(CLIENT4, "224.0.0.251", udp(b"x")),
            ipv4(CLIENT4, "127.0.0.1", udp(b"x")),
            ipv6(CLIENT6, "fe80::1", udp(b"x")),
            ipv6(CLIENT6, "ff02::fb", udp(b"x")),
            ipv6(CLIENT6, "::1", udp(b"x")),
            ipv6(CLIENT6, "::ffff:9.9.9.9", udp(b"x", port=443)),
        ],
    )
    def test_what_is_local_stays_local_whatever_a_rule_names(self, packet: bytes) -> None:
        everything = """
            [[rule]]
            name = "yes"
            action = "allow"
            who = ["*"]
            methods = ["connect-ip"]
            targets = ["*:*", "127.0.0.0/8:*", "169.254.0.0/16:*", "224.0.0.0/4:*",
                       "[fe80::/10]:*", "[ff00::/8]:*", "[::1]:*"]
        """
        tunnel = bench(policy=everything)
        assert tunnel.up(packet) == []
        assert tunnel.ip.uplink_no_route == 1

    @pytest.mark.clause("RFC 9484", "7.2", "MUST", "answer pings of link-local groups")
    @pytest.mark.parametrize(
        "packet",
        [
            ping4(CLIENT4, RELAY4),
            ping6(CLIENT6, RELAY6),
            ping6(CLIENT6, "ff02::1"),
            ping6("fe80::77", "ff02::1", b"x" * 1_232),
        ],
    )
    def test_pings_of_the_relay_are_answered_here(self, packet: bytes) -> None:
        tunnel = bench()
        assert tunnel.up(packet) == []
        (reply,) = tunnel.heard()
        assert icmp_kind(reply) in {(0, 0), (129, 0)}
        assert source_of(reply) in {RELAY4, RELAY6}

    def test_a_fragment_needs_a_rule_for_every_port(self) -> None:
        tunnel = bench()
        tail = ipv4(CLIENT4, HOST4, bytes(64), fragment=8)
        elsewhere = ipv4(CLIENT4, "9.9.9.9", bytes(64), protocol=6, fragment=8)
        assert tunnel.up(tail, elsewhere) == [tail]
        assert tunnel.ip.uplink_prohibited == 1
        assert tunnel.heard() == []  # RFC 1812: nobody is told about a later fragment

    def test_icmp_errors_have_a_rate(self) -> None:
        tunnel = bench(icmp_budget=2)
        tunnel.up(*[ipv4(HOST4, HOST4, udp(b"x"))] * 5)
        assert len(tunnel.heard()) == 2
        assert tunnel.ip.icmp_errors_sent == 2
        assert tunnel.ip.icmp_errors_suppressed == 3

    def test_the_rate_of_the_lease_drops_single_packets(self) -> None:
        tunnel = bench(uplink=FakeMeter(budget_bytes=len(OUT4) * 2))
        assert tunnel.up(OUT4, OUT4, OUT4) == [OUT4, OUT4]
        assert tunnel.counters.rate_dropped == 1


class TestDownlink:
    @pytest.mark.clause("RFC 9484", "7.2", "MUST", "the hop count goes down on encapsulation")
    def test_hop_limit_goes_down_on_the_way_to_the_client(self) -> None:
        tunnel = bench()
        v4, v6 = tunnel.down(IN4, IN6)
        assert v4[8] == IN4[8] - 1
        assert v6[7] == IN6[7] - 1
        assert has_good_checksums(v4)
        assert tunnel.counters.downlink_datagrams == 2
        assert tunnel.lease.downlink.byte_count == len(IN4) + len(IN6)

    def test_the_last_hop_ends_here_and_the_sender_is_told(self) -> None:
        tunnel = bench()
        last4 = ipv4(HOST4, CLIENT4, udp(b"x"), ttl=1)
        last6 = ipv6(HOST6, CLIENT6, udp(b"x"), hop_limit=1)
        assert len(tunnel.down(last4, last6, IN4)) == 1
        assert tunnel.ip.downlink_hop_limit == 2
        assert [icmp_kind(packet) for packet in tunnel.attachment.sent] == [(11, 0), (3, 0)]
        assert [source_of(packet) for packet in tunnel.attachment.sent] == [RELAY4, RELAY6]

    @pytest.mark.clause("RFC 9484", "10.1", "SHOULD", "drop what does not fit; Packet Too Big")
    def test_what_does_not_fit_is_told_with_the_mtu(self) -> None:
        tunnel = bench(max_payload_bytes=1_301)
        v4 = ipv4(HOST4, CLIENT4, bytes(1_281), fragment=0x4000)
        v6 = ipv6(HOST6, CLIENT6, bytes(1_261))
        fits = ipv6(HOST6, CLIENT6, bytes(1_260))
        assert len(tunnel.down(v4, v6, fits)) == 1
        assert tunnel.ip.downlink_too_big == 2
        about4, about6 = tunnel.attachment.sent
        assert (icmp_kind(about4), struct.unpack(">I", about4[24:28])) == ((3, 4), (1_300,))
        assert (icmp_kind(about6), struct.unpack(">I", about6[44:48])) == ((2, 0), (1_300,))

    def test_ipv4_without_df_is_divided(self) -> None:
        tunnel = bench(max_payload_bytes=1_301)
        first, second = tunnel.down(ipv4(HOST4, CLIENT4, udp(bytes(1_400))))
        assert (len(first), len(first[20:]) + len(second[20:])) == (1_300, 1_408)
        assert tunnel.ip.downlink_too_big == 0
        assert tunnel.attachment.sent == []

    def test_what_comes_from_outside_the_scope_is_not_for_the_client(self) -> None:
        tunnel = bench(scope=IpScope(target=ip_network("198.18.0.0/24"), ip_protocol=17))
        stranger = ipv4("9.9.9.9", CLIENT4, udp(b"x"))
        tcp = ipv4(HOST4, CLIENT4, bytes(20), protocol=6)
        unreachable = ipv4("9.9.9.9", CLIENT4, b"\x03\x01" + bytes(34), protocol=1)
        heard = tunnel.down(stranger, tcp, unreachable, IN4)
        assert [source_of(packet) for packet in heard] == ["9.9.9.9", HOST4]
        assert tunnel.ip.downlink_out_of_scope == 2

    def test_garbage_from_the_egress_is_dropped(self) -> None:
        tunnel = bench()
        assert tunnel.down(b"", IN4[:-1], b"\x45" * 30) == []
        assert tunnel.ip.downlink_malformed == 3

    def test_every_counter_of_the_downlink(self) -> None:
        tunnel = bench(max_payload_bytes=1_301)
        tunnel.down(
            b"?",
            ipv4("198.18.6.6", CLIENT4, udp(b"")),
            ipv4(HOST4, CLIENT4, udp(b""), ttl=1),
            ipv4(HOST4, CLIENT4, bytes(1_400), fragment=0x4000),
        )
        ip = tunnel.ip
        assert ip.downlink_malformed == 1
        assert ip.downlink_out_of_scope == 1
        assert ip.downlink_hop_limit == 1
        assert ip.downlink_too_big == 1

    def test_the_rate_of_the_lease_drops_single_packets(self) -> None:
        tunnel = bench(downlink=FakeMeter(budget_bytes=len(IN4)))
        assert len(tunnel.down(IN4, IN4)) == 1
        assert tunnel.counters.rate_dropped == 1

    def test_without_a_carrier_nothing_is_sent(self) -> None:
        tunnel = SessionBench()
        tunnel.session.open(None, {})
        tunnel.session.on_packets([IN4])
        assert tunnel.counters.downlink_datagrams == 0


class TestIpv6Mtu:
    """RFC 9484 section 7.2: a link of IPv6 takes 1,280 bytes."""

    BIG = ipv6(HOST6, CLIENT6, bytes(1_240))

    def test_before_the_path_is_known_a_packet_is_only_dropped(self) -> None:
        tunnel = bench(max_payload_bytes=1_200)
        assert tunnel.down(self.BIG) == []
        assert tunnel.session.end_reason is None
        assert tunnel.attachment.sent == []  # RFC 8200: no MTU below 1,280 is ever told

    @pytest.mark.clause("RFC 9484", "7.2", "MUST", "abort when the path can't carry 1,280 bytes")
    def test_a_narrow_path_ends_the_tunnel(self) -> None:
        tunnel = bench(max_payload_bytes=1_280)
        tunnel.session.require_ipv6_mtu()
        assert tunnel.session.end_reason is EndReason.TARGET_FAILED
        assert tunnel.carrier.aborted == [EndReason.TARGET_FAILED]
        assert "1280" in tunnel.session.trouble

    def test_1280_bytes_and_the_context_are_enough(self) -> None:
        tunnel = bench(max_payload_bytes=1_281)
        tunnel.session.require_ipv6_mtu()
        assert tunnel.session.end_reason is None
        assert len(tunnel.down(self.BIG)) == 1

    def test_a_path_that_becomes_narrow_later_ends_the_tunnel(self) -> None:
        tunnel = bench(max_payload_bytes=1_300)
        tunnel.session.require_ipv6_mtu()
        tunnel.carrier.max_payload_bytes = 1_200
        tunnel.down(self.BIG)
        assert tunnel.session.end_reason is EndReason.TARGET_FAILED

    def test_ipv4_alone_may_be_narrow(self) -> None:
        tunnel = bench(pools=["10.71.0.0/24"], max_payload_bytes=1_000)
        tunnel.session.require_ipv6_mtu()
        tunnel.down(IN4)
        assert tunnel.session.end_reason is None

    @pytest.mark.clause("RFC 9484", "7.2", "MUST", "probe with an echo of 1,280 bytes")
    def test_a_client_that_answers_the_probe_stays(self) -> None:
        tunnel = bench()
        tunnel.session.probe_ipv6(4711)
        (probe,) = tunnel.heard()
        assert len(probe) == 1_280
        reply = echo_reply(probe)
        assert reply is not None
        tunnel.up(reply)
        tunnel.session.require_ipv6_answer()
        assert tunnel.session.end_reason is None

    def test_one_that_does_not_answer_goes(self) -> None:
        tunnel = bench()
        tunnel.session.probe_ipv6(4711)
        tunnel.up(ping6(CLIENT6, RELAY6))
        tunnel.session.require_ipv6_answer()
        assert tunnel.carrier.aborted == [EndReason.TARGET_FAILED]


class TestCapsules:
    def test_a_request_is_answered_with_the_whole_list(self) -> None:
        tunnel = bench()
        tunnel.session.on_capsule(ADDRESS_REQUEST, encode_addresses([wants(4, 3), wants(4, 4)]))
        assert [(entry.request_id, str(entry.address)) for entry in tunnel.assigned] == [
            (3, CLIENT4),
            (0, CLIENT6),
            (4, "10.71.0.3"),
        ]
        assert tunnel.attachment.addresses == [CLIENT4, CLIENT6, "10.71.0.3"]
        assert tunnel.egress.attachments[0].is_closed
        assert tunnel.ip.addresses_assigned == 3
        assert tunnel.up(ipv4("10.71.0.3", HOST4, udp(b"x")))

    def test_refusals_are_counted(self) -> None:
        tunnel = bench(pools=["10.71.0.0/30"])
        tunnel.session.on_capsule(ADDRESS_REQUEST, encode_addresses([wants(4, 1), wants(6, 2)]))
        assert tunnel.ip.addresses_refused == 1
        assert tunnel.assigned[-1].is_refusal
        assert tunnel.session.end_reason is None

    @pytest.mark.clause("RFC 9297", "3.3", "MUST", "a malformed capsule ends the stream")
    @pytest.mark.parametrize(
        ("capsule_type", "value"),
        [
            (ADDRESS_REQUEST, b""),
            (ADDRESS_REQUEST, encode_addresses([wants(4, 0)])),
            (ADDRESS_ASSIGN, b"\x00\x05"),
            (ROUTE_ADVERTISEMENT, bytes.fromhex("04 0a000009 0a000001 00")),
        ],
    )
    def test_malformed_capsules_raise(self, capsule_type: int, value: bytes) -> None:
        with pytest.raises(WireError):
            bench().session.on_capsule(capsule_type, value)

    def test_what_the_client_assigns_and_routes_is_read_and_not_used(self) -> None:
        tunnel = bench()
        tunnel.session.on_capsule(ADDRESS_ASSIGN, encode_addresses([wants(4, 0, "192.0.2.1")]))
        tunnel.session.on_capsule(ROUTE_ADVERTISEMENT, encode_routes(EVERYWHERE))
        assert len(tunnel.carrier.capsules) == 2
        assert tunnel.up(OUT4) == [OUT4]

    def test_an_egress_that_fails_meanwhile_ends_the_tunnel(self) -> None:
        tunnel = bench()
        tunnel.egress.fault = FlowFault.RESOURCES
        tunnel.session.on_capsule(ADDRESS_REQUEST, encode_addresses([wants(4, 1), wants(4, 2)]))
        assert tunnel.carrier.aborted == [EndReason.TARGET_FAILED]
        assert tunnel.pool.assigned_count == 0
        assert tunnel.ip.addresses_assigned == 0


class TestEnds:
    @pytest.mark.clause("RFC 9484", "4.1", "MUST", "close the stream when the tunnel is torn down")
    @pytest.mark.parametrize(
        ("reason", "clean"), [(EndReason.IDLE, True), (EndReason.KICKED, False)]
    )
    def test_closing_gives_everything_back(self, reason: EndReason, clean: bool) -> None:
        tunnel = bench()
        tunnel.session.close(reason)
        tunnel.session.close(EndReason.BUG)
        assert tunnel.attachment.is_closed
        assert tunnel.pool.assigned_count == 0
        assert tunnel.ip.addresses_assigned == 0
        assert (tunnel.carrier.is_finished, tunnel.carrier.aborted) == (
            (True, []) if clean else (False, [reason])
        )
        tunnel.session.on_datagrams([b"\0" + OUT4])
        tunnel.session.on_packets([IN4])
        tunnel.session.on_capsule(ADDRESS_REQUEST, encode_addresses([wants(4, 1)]))
        tunnel.session.require_ipv6_mtu()
        tunnel.session.probe_ipv6(1)
        assert tunnel.attachment.sent == []

    @pytest.mark.clause("RFC 9484", "4.1", "MUST", "keep assignments while the stream is open")
    def test_addresses_are_held_until_the_stream_ends(self) -> None:
        tunnel = bench()
        others = [tunnel.pool.assign(4) for _ in range(300)]
        assert ip_address(CLIENT4) not in others
        tunnel.session.ended(EndReason.PEER_CLOSED)
        assert tunnel.pool.assign(4) == ip_address(CLIENT4)

    def test_an_egress_that_vanishes_ends_the_tunnel(self) -> None:
        tunnel = bench()
        gone = FlowError(FlowFault.DESTINATION_UNAVAILABLE, "the device was deleted")
        tunnel.attachment.sink.on_egress_lost(gone)
        assert tunnel.session.end_reason is EndReason.TARGET_FAILED
        assert "deleted" in tunnel.session.trouble
        assert tunnel.pool.assigned_count == 0


class TestReload:
    NARROW = """
        [[rule]]
        name = "yes"
        action = "allow"
        who = ["*"]
        methods = ["connect-ip"]
        targets = ["198.18.0.0/24:53"]
    """

    @pytest.mark.clause("RFC 9484", "4.7.3", "MUST", "a new list replaces the one before")
    def test_a_reload_withdraws_routes_and_stops_packets(self) -> None:
        tunnel = bench()
        tunnel.filter.replace(session_table(self.NARROW))
        assert [str(route.first) for route in tunnel.routes] == ["198.18.0.0"]
        allowed = ipv4(CLIENT4, HOST4, udp(b"x", port=53))
        assert tunnel.up(allowed, ipv4(CLIENT4, HOST4, udp(b"x", port=54)), OUT6) == [allowed]

    def test_a_reload_without_a_change_says_nothing(self) -> None:
        tunnel = bench()
        tunnel.filter.replace(session_table())
        assert len(tunnel.capsules(ROUTE_ADVERTISEMENT)) == 1

    def test_a_tunnel_that_is_over_hears_nothing(self) -> None:
        tunnel = bench()
        tunnel.session.close(EndReason.IDLE)
        tunnel.filter.replace(session_table(self.NARROW))
        assert len(tunnel.capsules(ROUTE_ADVERTISEMENT)) == 1


class TestAdoption:
    def test_a_client_that_knows_its_address_may_have_it(self) -> None:
        tunnel = bench(adopts_sources=True)
        packet = ipv4("10.71.0.99", HOST4, udp(b"x"))
        assert tunnel.up(packet, packet) != []
        assert tunnel.attachment.addresses[-1] == "10.71.0.99"
        assert tunnel.ip.addresses_assigned == 3

    def test_not_one_that_somebody_else_has(self) -> None:
        tunnel = bench(adopts_sources=True)
        taken = tunnel.pool.assign(4)
        assert tunnel.up(ipv4(str(taken), HOST4, udp(b"x"))) == []
        assert tunnel.ip.uplink_bad_source == 1


def packets(make: Callable[..., bytes], *ends: str) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda payload, protocol: make(*ends, payload, protocol=protocol),
        st.binary(max_size=80),
        st.sampled_from([0, 1, 6, 17, 43, 44, 51, 58, 60, 132, 255]),
    )


anything = st.one_of(
    st.binary(max_size=100),
    packets(ipv4, CLIENT4, HOST4),
    packets(ipv4, CLIENT4, RELAY4),
    packets(ipv6, CLIENT6, HOST6),
    packets(ipv6, CLIENT6, "ff02::1"),
    packets(ipv4, HOST4, CLIENT4),
    packets(ipv6, HOST6, CLIENT6),
)


@given(st.lists(anything, max_size=6), st.booleans())
def test_no_packet_raises_or_ends_the_tunnel(batch: list[bytes], inward: bool) -> None:
    tunnel = bench(icmp_budget=3)
    if inward:
        tunnel.session.on_packets(batch)
    else:
        tunnel.session.on_datagrams([b"\0" + packet for packet in batch])
        tunnel.session.on_datagrams(batch)
    assert tunnel.session.end_reason is None
    errors = [packet for packet in tunnel.heard() if icmp_kind(packet) in {(3, 13), (1, 5)}]
    assert all(map(has_good_checksums, errors)) or inward
