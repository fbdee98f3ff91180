"""Owns the CONNECT-IP tunnel between a carrier and an IP egress (RFC 9484), sans I/O.

The tunnel is a link, and this is the router at its end: what is wrong with a packet is a forwarding
error, answered with ICMP and counted, never the end of the stream (section 7.2). What is wrong with
a capsule ends the stream, and that stream alone (section 4.7).
"""

from collections.abc import Mapping, Sequence

from masque_relay.contract.address import IPAddress
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ip import IpAttachment
from masque_relay.contract.ip_scope import IPNetwork
from masque_relay.contract.lease import Lease
from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ip_addresses import AddressBook
from masque_relay.tunnels.ip_own import OwnAddresses, is_link_local
from masque_relay.tunnels.ip_parts import IpTunnelParts
from masque_relay.tunnels.ip_routes import RouteSet, within_networks
from masque_relay.tunnels.session import DatagramSession, admit_batch
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ADDRESS_REQUEST,
    IP_PACKET_CONTEXT,
    MIN_IPV6_MTU_BYTES,
    ROUTE_ADVERTISEMENT,
    decode_address_assign,
    decode_address_request,
    decode_routes,
    encode_addresses,
    encode_routes,
)
from masque_relay.wire.icmp import IcmpError
from masque_relay.wire.ip_packet import (
    PacketFacts,
    decrement_hop_limit,
    fragment_ipv4,
    read_packet,
)
from masque_relay.wire.varint import peek_varint

_ICMP = (0, 0, 0, 0, 1, 0, 58)  # by IP version


class ConnectIpSession(DatagramSession):
    """Moves IP packets between one carrier and one attachment of the egress.

    It is the attachment's IpSink and the carrier's TunnelSession. Nothing here blocks, waits or
    looks at a clock.

    Attributes:
        capsule_types: capsule types that it wants besides DATAGRAM.
        trouble: what an operator wants to know about its end; empty when nothing.
    """

    __slots__ = (
        "_attachment",
        "_book",
        "_counted",
        "_counters",
        "_filter",
        "_ip_counters",
        "_lease",
        "_narrow_is_fatal",
        "_own",
        "_parts",
        "_protocol",
        "_routes",
        "_scope",
        "trouble",
    )

    capsule_types: frozenset[int] = frozenset(
        {ADDRESS_ASSIGN, ADDRESS_REQUEST, ROUTE_ADVERTISEMENT}
    )

    def __init__(self, lease: Lease, parts: IpTunnelParts) -> None:
        super().__init__()
        scope = lease.request.ip_scope
        self._lease = lease
        self._parts = parts
        self._filter = parts.packet_filter
        self._counters = parts.counters
        self._ip_counters = parts.ip_counters
        self._protocol = None if scope is None else scope.ip_protocol
        self._scope: Sequence[IPNetwork] | None = None
        self._routes = RouteSet(())
        self._book = AddressBook(parts.pool, ())
        self._own = OwnAddresses(parts.pool, parts.ip_counters, parts.may_send_icmp)
        self._attachment: IpAttachment | None = None
        self._counted = 0
        self._narrow_is_fatal = False
        self.trouble = ""

    # -- life -----------------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """What the client may send from."""
        return self._book.addresses

    @property
    def has_ipv6(self) -> bool:
        """Whether the tunnel carries IPv6, so that it must take packets of 1,280 bytes."""
        return bool(self._book.ipv6)

    def open(self, scope: Sequence[IPNetwork] | None, wanted: Mapping[int, IPAddress]) -> None:
        """Take addresses and a place at the egress, before the 2xx.

        Args:
            scope: the networks that the tunnel is limited to; None = no limit.
            wanted: the addresses to have again, by version.

        Raises:
            FlowError: nothing in the scope can be reached, no address is free, or the egress will
                not have us.
        """
        if self.end_reason is not None:
            return
        self._scope = scope
        self._compute_routes()
        if not self._routes.ranges:
            raise FlowError(FlowFault.DESTINATION_IP_UNROUTABLE, "no route into the scope")
        self._book = AddressBook(self._parts.pool, self._routes.versions)
        self._book.begin(wanted)
        if not self._book.addresses:
            raise FlowError(FlowFault.RESOURCES, "no address is free")
        self._addresses_changed()
        self._filter.on_change(self._policy_changed)

    def attach(self, carrier: Carrier) -> None:
        """Learn the way to the client, and tell it its addresses and routes."""
        super().attach(carrier)
        if self.end_reason is not None:
            return
        carrier.send_capsule(ADDRESS_ASSIGN, encode_addresses(self._book.entries))
        self._advertise(carrier)
        # connect-ip-dns, "Security Considerations": not before the routes.
        for capsule_type, value in self._parts.extra_capsules:
            carrier.send_capsule(capsule_type, value)

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; give the addresses back. Idempotent."""
        super().ended(reason)
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.close()
        self._book.release()
        self._count_addresses()

    # -- client -> egress -----------------------------------------------------------------------

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Forward IP packets from the client; this is the hot path, one pass per batch."""
        attachment = self._attachment
        if attachment is None:
            return
        ipv4, ipv6 = self._book.ipv4, self._book.ipv6
        admits, has_route, takes = self._filter.admits, self._routes.has, self._own.takes
        wanted_protocol, mtu_bytes = self._protocol, self._parts.egress.mtu_bytes
        packets: list[bytes] = []
        size = 0
        # A batch is mostly one flow: what was decided for the packet before need not be again.
        last_version = last_source = last_destination = last_protocol = last_port = -1
        for payload in payloads:
            in_context_0 = payload and not payload[0]
            packet = payload[1:] if in_context_0 else self._respelt(payload)
            if packet is None:
                continue
            facts = read_packet(packet)
            if facts is None:
                self._ip_counters.uplink_malformed += 1
                continue
            version, source, destination, protocol, port, hop_limit = facts
            is_same_flow = (
                port == last_port
                and destination == last_destination
                and source == last_source
                and protocol == last_protocol
                and version == last_version
            )
            if not is_same_flow and not (
                source in (ipv4 if version == 4 else ipv6)
                and has_route(version, destination)
                and admits(version, destination, protocol, port)
                and (wanted_protocol is None or protocol in (wanted_protocol, _ICMP[version]))
                and not (protocol == _ICMP[version] and takes(version, destination))
            ):
                self._not_forwarded(packet, facts)
                continue
            last_version, last_source, last_destination = version, source, destination
            last_protocol, last_port = protocol, port
            if hop_limit and len(packet) <= mtu_bytes:
                packets.append(packet)
                size += len(packet)
            else:
                self._not_forwarded(packet, facts)
        if packets:
            self._send_to_egress(attachment, packets, size)

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        """Answer what the client asks for; check what it tells.

        Its own addresses and routes are read and not used: this relay routes nothing into a
        client's network (section 4.7.3 leaves that open).

        Raises:
            WireError: the capsule is malformed; the front end aborts the stream.
        """
        if capsule_type == ADDRESS_REQUEST:
            self._answer_requests(value)
        elif capsule_type == ADDRESS_ASSIGN:
            decode_address_assign(value)
        elif capsule_type == ROUTE_ADVERTISEMENT:
            decode_routes(value)

    # -- egress -> client -----------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether enough waits for the client."""
        return self._carrier is not None and self._carrier.is_busy

    def on_packets(self, packets: Sequence[bytes]) -> None:
        """Forward packets from the egress to the client."""
        carrier = self._carrier
        if carrier is None:
            return
        limit_bytes = carrier.max_payload_bytes - len(IP_PACKET_CONTEXT)
        has_route, wanted_protocol = self._routes.has, self._protocol
        forwarded: list[bytes] = []
        last_version = last_source = last_protocol = -1
        for packet in packets:
            facts = read_packet(packet)
            if facts is None:
                self._ip_counters.downlink_malformed += 1
                continue
            version, source, _, protocol, _, _ = facts
            # Section 7.2.1: ICMP may come from anywhere, also from outside the scope.
            if source != last_source or protocol != last_protocol or version != last_version:
                if protocol != _ICMP[version] and (
                    not has_route(version, source)
                    or (wanted_protocol is not None and protocol != wanted_protocol)
                ):
                    self._ip_counters.downlink_out_of_scope += 1
                    continue
                last_version, last_source, last_protocol = version, source, protocol
            # Section 7.2: the hop count goes down right before a packet enters the tunnel.
            shortened = decrement_hop_limit(packet)
            if shortened is None:
                self._ip_counters.downlink_hop_limit += 1
                self._tell_egress(IcmpError.HOP_LIMIT, packet)
            elif len(shortened) > limit_bytes:
                forwarded += fragment_ipv4(shortened, limit_bytes) or self._too_big_for_client(
                    packet, limit_bytes
                )
            else:
                forwarded.append(shortened)
        if forwarded:
            self._send_to_client(forwarded)

    def on_egress_lost(self, error: FlowError) -> None:
        """End the tunnel: its way out is gone."""
        self.trouble = str(error)
        self._attachment = None
        self.close(EndReason.TARGET_FAILED)

    # -- the MTU of IPv6 ------------------------------------------------------------------------

    def require_ipv6_mtu(self) -> None:
        """End the tunnel if it carries IPv6 and its path is too narrow; from now on at once.

        Called when path MTU discovery has had its time: before that, narrow says nothing.
        """
        self._narrow_is_fatal = True
        carrier = self._carrier
        if carrier is not None and self.has_ipv6:
            limit_bytes = carrier.max_payload_bytes - len(IP_PACKET_CONTEXT)
            if limit_bytes < MIN_IPV6_MTU_BYTES:
                self._end_narrow(limit_bytes)

    def probe_ipv6(self, identifier: int) -> None:
        """Send the client an echo request of 1,280 bytes (section 7.2)."""
        client = next((entry for entry in self.addresses if entry.version == 6), None)
        probe = None if client is None else self._own.probe(client, identifier)
        if probe is not None:
            self._send_to_client([probe])

    def require_ipv6_answer(self) -> None:
        """End the tunnel if the client has not answered the probe."""
        if self.has_ipv6 and not self._own.heard_probe:
            self.trouble = "the client did not answer an echo request of 1280 bytes"
            self.close(EndReason.TARGET_FAILED)

    # -- steps ----------------------------------------------------------------------------------

    def _send_to_egress(
        self, attachment: IpAttachment, packets: Sequence[bytes], size: int
    ) -> None:
        if not self._lease.uplink.take(len(packets), size):
            offered = len(packets)
            packets = admit_batch(self._lease.uplink, packets)
            self._counters.rate_dropped += offered - len(packets)
            size = sum(map(len, packets))
        if packets and self._attachment is attachment:  # the last of a quota ends the lease
            taken = attachment.send_packets(packets)
            self._ip_counters.uplink_egress_full += len(packets) - taken
            self._counters.uplink_datagrams += taken
            self._counters.uplink_bytes += (
                size if taken == len(packets) else size * taken // len(packets)
            )

    def _send_to_client(self, packets: Sequence[bytes]) -> None:
        carrier = self._carrier
        if carrier is None:
            return
        size = sum(map(len, packets))
        if not self._lease.downlink.take(len(packets), size):
            offered = len(packets)
            packets = admit_batch(self._lease.downlink, packets)
            self._counters.rate_dropped += offered - len(packets)
            size = sum(map(len, packets))
        if packets and self._carrier is carrier:
            sent = carrier.send_datagrams(IP_PACKET_CONTEXT, packets)
            self._counters.downlink_datagrams += sent
            self._counters.downlink_bytes += (
                size if sent == len(packets) else size * sent // len(packets)
            )

    def _respelt(self, payload: bytes) -> bytes | None:
        """Return the packet behind context ID 0 in a longer spelling; None for other contexts."""
        found = peek_varint(payload)
        if found is not None and found[0] == 0:
            return payload[found[1] :]
        # Section 6: an unknown context is dropped silently; no extension registers any here.
        self._counters.unknown_context_dropped += 1
        return None

    def _not_forwarded(self, packet: bytes, facts: PacketFacts) -> None:
        """Count why a packet goes no further, and tell the client."""
        version, source, destination, protocol, port, hop_limit = facts
        counters = self._ip_counters
        is_own = source in (self._book.ipv4 if version == 4 else self._book.ipv6)
        if self._own.takes(version, destination) and (is_own or is_link_local(version, source)):
            answer = self._own.answer(packet)
            if answer is not None:
                self._send_to_client([answer])
        elif not is_own:
            if self._parts.adopts_sources and self._adopt(version, source):
                self.on_datagrams([IP_PACKET_CONTEXT + packet])
                return
            counters.uplink_bad_source += 1
            self._tell_client(IcmpError.BAD_SOURCE, packet)
        elif not self._routes.has(version, destination):
            counters.uplink_no_route += 1
            self._tell_client(IcmpError.NO_ROUTE, packet)
        elif not self._filter.admits(version, destination, protocol, port):
            counters.uplink_prohibited += 1
            self._tell_client(IcmpError.PROHIBITED, packet)
        elif not hop_limit:
            counters.uplink_hop_limit += 1
            self._tell_client(IcmpError.HOP_LIMIT, packet)
        elif len(packet) > self._parts.egress.mtu_bytes:
            counters.uplink_too_big += 1
            self._tell_client(IcmpError.TOO_BIG, packet, self._parts.egress.mtu_bytes)
        else:
            counters.uplink_wrong_protocol += 1
            self._tell_client(IcmpError.PROHIBITED, packet)

    def _too_big_for_client(self, packet: bytes, limit_bytes: int) -> Sequence[bytes]:
        """Tell the sender; forward nothing."""
        self._ip_counters.downlink_too_big += 1
        if packet[0] >> 4 == 6 and limit_bytes < MIN_IPV6_MTU_BYTES:
            # RFC 8200 section 5: no smaller MTU may be told. Section 7.2: the stream is aborted
            # once it is certain that the path stays like this.
            if self._narrow_is_fatal:
                self._end_narrow(limit_bytes)
        else:
            self._tell_egress(IcmpError.TOO_BIG, packet, limit_bytes)
        return ()

    def _end_narrow(self, limit_bytes: int) -> None:
        self.trouble = f"the client's path takes packets of {limit_bytes} bytes, IPv6 needs 1280"
        self.close(EndReason.TARGET_FAILED)

    def _tell_client(self, error: IcmpError, packet: bytes, mtu_bytes: int = 0) -> None:
        message = self._own.error(error, packet, mtu_bytes)
        if message is not None:
            self._send_to_client([message])

    def _tell_egress(self, error: IcmpError, packet: bytes, mtu_bytes: int = 0) -> None:
        message = self._own.error(error, packet, mtu_bytes)
        if message is not None and self._attachment is not None:
            self._attachment.send_packets([message])

    def _answer_requests(self, value: bytes) -> None:
        requests = decode_address_request(value)
        carrier = self._carrier
        if carrier is None:
            return
        before, refused_before = self._book.addresses, self._book.refused_count
        entries = self._book.answer(requests)
        self._ip_counters.addresses_refused += self._book.refused_count - refused_before
        if self._book.addresses != before:
            try:
                self._addresses_changed()
            except FlowError as error:
                self.on_egress_lost(error)
                return
        carrier.send_capsule(ADDRESS_ASSIGN, encode_addresses(entries))

    def _adopt(self, version: int, source: int) -> bool:
        if not self._book.adopt(version, source):
            return False
        try:
            self._addresses_changed()
        except FlowError as error:
            self.on_egress_lost(error)
            return False
        return True

    def _count_addresses(self) -> None:
        """Keep the gauge right, whichever way addresses come and go."""
        held_count = len(self._book.addresses)
        self._ip_counters.addresses_assigned += held_count - self._counted
        self._counted = held_count

    def _addresses_changed(self) -> None:
        """Attach to the egress with the addresses of now."""
        addresses = self._book.addresses
        self._count_addresses()
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None
        self._attachment = self._parts.egress.attach(
            self._lease, addresses, self._parts.watch(self)
        )

    def _compute_routes(self) -> None:
        ranges = self._parts.egress.routes()
        if self._scope is not None:
            ranges = within_networks(ranges, self._scope)
        self._routes = RouteSet(self._filter.reachable(ranges))

    def _policy_changed(self) -> None:
        """Withdraw or add routes after a reload; section 4.7.3: the new list replaces the old."""
        if self.end_reason is not None:
            return
        before = self._routes.ranges
        self._compute_routes()
        if self._carrier is not None and self._routes.ranges != before:
            self._advertise(self._carrier)

    def _advertise(self, carrier: Carrier) -> None:
        versions = tuple({address.version for address in self._book.addresses})
        routes = self._routes.advertised(versions, self._protocol)
        carrier.send_capsule(ROUTE_ADVERTISEMENT, encode_routes(routes))
