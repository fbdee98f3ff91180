"""Owns the data path: batches of the client to peers, batches of peers to the client.

No task, no queue, no log line and no object per datagram: a batch that arrives as ChannelData of
one channel leaves as one batch, which the sockets turn into one system call where they can.
"""

import secrets
from collections.abc import Sequence
from ipaddress import ip_address

from fallbacks.turn.allocation import Allocation, Channel, Relayed, Source
from fallbacks.turn.path import TurnServices
from fallbacks.turn.relay_ports import RelayPorts
from masque_relay.contract.address import Endpoint
from masque_relay.contract.lease import Meter
from masque_relay.contract.relay_socket import PeerError
from masque_relay.stun.channel_data import (
    CHANNEL_HEADER_BYTES,
    encode_channel_head,
    is_channel_data,
)
from masque_relay.stun.codepoints import AddressFamily, Attribute, MessageClass, Method
from masque_relay.stun.message import StunMessage, encode_message, unknown_required
from masque_relay.stun.values import (
    decode_xor_address,
    encode_icmp,
    encode_xor_address,
    family_of,
)
from masque_relay.wire.errors import WireError

_MTU_TYPES = {(AddressFamily.IPV4, 3, 4), (AddressFamily.IPV6, 2, 0)}


class DataPath:
    """Moves datagrams of allocations."""

    def __init__(self, services: TurnServices, ports: RelayPorts) -> None:
        self._services = services
        self._ports = ports

    # -- client -> peers ------------------------------------------------------------------------

    def send_run(self, allocation: Allocation, messages: Sequence[bytes]) -> bool:
        """Pass on ChannelData messages if all have one head; False if they do not.

        The common case: a burst of one size on one channel.
        """
        first = messages[0]
        head = first[:CHANNEL_HEADER_BYTES]
        if len(head) < CHANNEL_HEADER_BYTES or not is_channel_data(head[0]):
            return False
        end = CHANNEL_HEADER_BYTES + (head[2] << 8 | head[3])
        payloads = [
            message[CHANNEL_HEADER_BYTES:end] for message in messages if message.startswith(head)
        ]
        if len(payloads) != len(messages) or min(map(len, messages)) < end:
            return False
        self._send_on_channel(allocation, head[:2], payloads)
        return True

    def send_channel_data(self, allocation: Allocation, messages: Sequence[bytes]) -> None:
        """Pass on ChannelData messages of any channels, in order."""
        run: list[bytes] = []
        run_prefix = b""
        for message in messages:
            prefix = message[:2]
            end = CHANNEL_HEADER_BYTES + int.from_bytes(message[2:4], "big")
            if len(message) < end or len(message) < CHANNEL_HEADER_BYTES:
                # RFC 8656 section 12.5: over UDP padding may follow, but nothing may be missing.
                self._services.counters.no_channel += 1
                continue
            if prefix != run_prefix:
                if run:
                    self._send_on_channel(allocation, run_prefix, run)
                run, run_prefix = [], prefix
            run.append(message[CHANNEL_HEADER_BYTES:end])
        if run:
            self._send_on_channel(allocation, run_prefix, run)

    def send_indication(self, allocation: Allocation, message: StunMessage) -> None:
        """Pass on a Send indication (RFC 8656 section 11.2); a bad one is dropped silently."""
        counters = self._services.counters
        address, data = message.get(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
        if address is None or data is None or unknown_required(message):
            counters.malformed += 1
            return
        try:
            peer = decode_xor_address(address, message.transaction_id)
        except WireError:
            counters.malformed += 1
            return
        host = str(peer.address)
        relayed = allocation.relayed_for(family_of(peer.address))
        if relayed is None or host not in allocation.permissions:
            counters.no_permission += 1
            return
        source = (host, peer.port)
        if not self.admits(allocation, peer, source):
            counters.denied += 1
            return
        destination = self._ports.local_of(source)
        if message.get(Attribute.DONT_FRAGMENT) is None:
            self._send(allocation, relayed, destination, [data])
            return
        relayed.socket.forbid_fragments(forbidden=True)
        self._send(allocation, relayed, destination, [data])
        relayed.socket.forbid_fragments(forbidden=False)

    def admits(self, allocation: Allocation, peer: Endpoint, source: Source) -> bool:
        """Return whether the gate lets the client reach a peer; it is asked once per endpoint."""
        known = allocation.admitted.get(source)
        if known is not None:
            return known
        if len(allocation.admitted) >= self._services.settings.limits.peers_per_allocation:
            return False
        admitted = self._ask(allocation, peer, source)
        allocation.admitted[source] = admitted
        return admitted

    def permits(self, allocation: Allocation, peer: Endpoint) -> bool:
        """Return whether the client may have a permission for a peer's address.

        The gate is asked about the port that came with it; about every port that something is sent
        to it is asked again.
        """
        services = self._services
        if services.gate.admit_address(allocation.lease, peer.address, peer.port) is not None:
            return False
        public = {address.public for address in services.settings.relay_addresses}
        return (
            peer.address in public
            or not services.is_own_address(peer.address)
            or services.is_own_listener(peer)
        )

    def _ask(self, allocation: Allocation, peer: Endpoint, source: Source) -> bool:
        if self._services.gate.admit_address(allocation.lease, peer.address, peer.port) is not None:
            return False
        # Another relayed address of ours is meant to be reached, and our own QUIC port (a client of
        # the mesh may have no other way to it); nothing else of this host is.
        return (
            self._ports.is_relayed(source)
            or self._services.is_relayed_elsewhere(source)
            or not self._services.is_own_address(peer.address)
            or self._services.is_own_listener(peer)
        )

    def _send_on_channel(
        self, allocation: Allocation, prefix: bytes, payloads: Sequence[bytes]
    ) -> None:
        channel = allocation.channels.get(prefix)
        if channel is None:
            self._services.counters.no_channel += len(payloads)
            return
        self._send(allocation, channel.relayed, channel.destination, payloads)

    def _send(
        self,
        allocation: Allocation,
        relayed: Relayed,
        destination: Source,
        payloads: Sequence[bytes],
    ) -> None:
        payloads, size_bytes = self._metered(allocation.lease.uplink, payloads)
        tunnels = self._services.tunnels
        tunnels.uplink_datagrams += len(payloads)
        tunnels.uplink_bytes += size_bytes
        relayed.socket.send_batch(payloads, destination)

    # -- peers -> client ------------------------------------------------------------------------

    def receive(self, allocation: Allocation, relayed: Relayed) -> None:
        """Take what peers have sent to a relayed address, and pass it on to the client."""
        batches = relayed.socket.receive_batches(self._services.settings.limits.peer_batch_count)
        if not batches:
            # Woken, and not by a datagram: an error waits.
            self._report_errors(allocation, relayed)
            return
        for batch in batches:
            source, payloads = batch.source, batch.payloads
            channel = allocation.channel_by_peer.get(source)
            public = source if channel is not None else self._ports.public_of(source)
            host = public[0] if channel is None else channel.peer[0]
            if host not in allocation.permissions:
                self._services.counters.no_permission += len(payloads)
                continue
            metered, size_bytes = self._metered(allocation.lease.downlink, payloads)
            if not metered:
                continue
            tunnels = self._services.tunnels
            tunnels.downlink_datagrams += len(metered)
            tunnels.downlink_bytes += size_bytes
            messages = (
                _channel_data(channel, metered)
                if channel is not None
                else _data_indications(public, metered)
            )
            taken = allocation.path.send_batch(messages)
            self._services.counters.client_dropped += len(messages) - taken

    def _report_errors(self, allocation: Allocation, relayed: Relayed) -> None:
        for error in relayed.socket.take_errors():
            public = self._ports.public_of((str(error.peer.address), error.peer.port))
            # RFC 8656 section 11.5: only for peers with a permission.
            if public[0] in allocation.permissions:
                self._services.counters.icmp_reported += 1
                allocation.path.send(_icmp_indication(public, error, relayed.family))

    def _metered(self, meter: Meter, payloads: Sequence[bytes]) -> tuple[Sequence[bytes], int]:
        """Return what the lease's limits let pass, and its bytes."""
        size_bytes = sum(map(len, payloads))
        if meter.take(len(payloads), size_bytes):
            return payloads, size_bytes
        if len(payloads) == 1:
            meter.drop(1)
            self._services.tunnels.rate_dropped += 1
            return (), 0
        passed = [payload for payload in payloads if meter.take(1, len(payload))]
        meter.drop(len(payloads) - len(passed))
        self._services.tunnels.rate_dropped += len(payloads) - len(passed)
        return passed, sum(map(len, passed))


def _channel_data(channel: Channel, payloads: Sequence[bytes]) -> list[bytes]:
    length = len(payloads[0])
    prefix = channel.prefix
    if all(len(payload) == length for payload in payloads):
        head = encode_channel_head(channel.number, length)
        return [head + payload for payload in payloads]
    return [prefix + len(payload).to_bytes(2, "big") + payload for payload in payloads]


def _data_indications(peer: Source, payloads: Sequence[bytes]) -> list[bytes]:
    endpoint = Endpoint(address=ip_address(peer[0].partition("%")[0]), port=peer[1])
    messages: list[bytes] = []
    for payload in payloads:
        transaction_id = secrets.token_bytes(12)
        attributes = (
            (int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(endpoint, transaction_id)),
            (int(Attribute.DATA), payload),
        )
        messages.append(
            encode_message(Method.DATA, MessageClass.INDICATION, transaction_id, attributes)
        )
    return messages


def _icmp_indication(peer: Source, error: PeerError, family: AddressFamily) -> bytes:
    endpoint = Endpoint(address=ip_address(peer[0].partition("%")[0]), port=peer[1])
    transaction_id = secrets.token_bytes(12)
    too_big = (family, error.icmp_type, error.icmp_code) in _MTU_TYPES
    # RFC 8656 section 18.13: the data field has the MTU of "too big", else zero.
    value = encode_icmp(error.icmp_type, error.icmp_code, error.mtu_bytes if too_big else 0)
    attributes = (
        (int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(endpoint, transaction_id)),
        (int(Attribute.ICMP), value),
    )
    return encode_message(Method.DATA, MessageClass.INDICATION, transaction_id, attributes)
