"""Owns the bound UDP socket of a listener: batches in, batches out, IPv4 and IPv6."""

import logging
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Self

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.dataplane.errors import flow_error_from_os
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.dataplane.offload import (
    GRO_ANCILLARY_BYTES,
    RECEIVE_BYTES,
    Address,
    CoalescingGauge,
    RunSender,
    enable_gro,
    split_burst,
    stop_coalescing,
)

logger = logging.getLogger(__name__)

_MAPPED_PREFIX = "::ffff:"

# Linux values; the socket module does not name all of them.
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33


class BatchUdpSocket:
    """A bound, non-blocking UDP socket that moves batches; a contract.ports.DatagramSocket.

    A socket bound to ``::`` serves IPv4 too; its IPv4 peers appear as plain IPv4 addresses and are
    given as such to :meth:`send_batch`. A link-local source carries its interface number
    (``fe80::1%2``), which a send understands.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_counters",
        "_gauge",
        "_is_ipv6",
        "_local",
        "_sender",
        "_socket",
        "_view",
    )

    def __init__(
        self,
        bound_socket: socket.socket,
        *,
        limits: SocketLimits,
        counters: FlowCounters,
        buffer: bytearray | None = None,
    ) -> None:
        """Take over a bound UDP socket; :meth:`close` closes it.

        Args:
            bound_socket: any blocking mode; it is made non-blocking.
            limits: offloads to use; the buffers are set by :meth:`bind`.
            counters: where drops and offloads are counted.
            buffer: RECEIVE_BYTES to receive into, which all sockets of a loop may share; None = its
                own.
        """
        bound_socket.settimeout(0.0)
        self._socket = bound_socket
        self._is_ipv6 = bound_socket.family == socket.AF_INET6
        self._counters = counters
        self._local = bound_endpoint(bound_socket)
        self._sender = RunSender(bound_socket, counters, segmenting=limits.segment_sends)
        self._gauge = CoalescingGauge(
            coalescing=limits.coalesce_receives and enable_gro(bound_socket, enabled=True)
        )
        self._buffer = bytearray(RECEIVE_BYTES) if buffer is None else buffer
        self._view = memoryview(self._buffer)
        self._closed = False

    @classmethod
    def bind(cls, endpoint: Endpoint, *, limits: SocketLimits, counters: FlowCounters) -> Self:
        """Bind a socket; port 0 picks a free one.

        Raises:
            FlowError: the address is taken, not ours or of a family that this host lacks.
        """
        return cls(open_bound(endpoint, limits), limits=limits, counters=counters)

    @property
    def local(self) -> Endpoint:
        """What the socket is bound to."""
        return self._local

    @property
    def segmenting(self) -> bool:
        """Whether sends of runs use GSO now."""
        return self._sender.segmenting

    @property
    def coalescing(self) -> bool:
        """Whether receives use GRO now."""
        return self._gauge.coalescing

    def fileno(self) -> int:
        """Return the descriptor for loop.add_reader; -1 once closed."""
        return self._socket.fileno()

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        """Return what is there now, grouped by source; at most about ``max_datagrams``.

        Order is kept within a source. A GRO burst is never split, hence "about". Never blocks and
        never raises; a socket that is closed gives nothing.
        """
        if self._closed:
            return []
        by_source: dict[Address, list[bytes]] = {}
        if self._gauge.coalescing:
            calls, count = self._drain_bursts(by_source, max_datagrams)
            if self._gauge.wants_plain(calls, count) and stop_coalescing(self._socket):
                self._gauge.switched_to_plain()
        else:
            count = self._drain_plain(by_source, max_datagrams)
            if self._gauge.wants_trial(count) and enable_gro(self._socket, enabled=True):
                self._gauge.switched_to_coalescing()
        return [
            ReceivedBatch(payloads, self._source(address))
            for address, payloads in by_source.items()
        ]

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        """Send to one destination now; return how many the kernel took. Never blocks or raises.

        Full buffers and payloads larger than the path takes are counted drops.
        """
        if self._closed or not payloads:
            return 0
        if self._is_ipv6 and ":" not in destination[0]:
            destination = (_MAPPED_PREFIX + destination[0], destination[1])
        return self._sender.send(payloads, destination)

    def close(self) -> None:
        """Close; idempotent. Remove it from the loop first."""
        if not self._closed:
            self._closed = True
            self._socket.close()

    def _drain_bursts(self, by_source: dict[Address, list[bytes]], limit: int) -> tuple[int, int]:
        receive = self._socket.recvmsg_into
        buffers = (self._buffer,)
        view = self._view
        call_count = datagram_count = 0
        while datagram_count < limit:
            try:
                size, ancillary, flags, address = receive(buffers, GRO_ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError:
                if not self._survives_error():
                    break
                datagram_count += 1
                continue
            call_count += 1
            if flags & socket.MSG_TRUNC:
                self._counters.receive_errors += 1
                datagram_count += 1
                continue
            payloads = split_burst(bytes(view[:size]), ancillary)
            datagram_count += len(payloads)
            if len(payloads) > 1:
                self._counters.gro_receives += 1
            if (known := by_source.get(address)) is None:
                by_source[address] = payloads
            else:
                known += payloads
        return call_count, datagram_count

    def _drain_plain(self, by_source: dict[Address, list[bytes]], limit: int) -> int:
        receive = self._socket.recvfrom
        datagram_count = 0
        while datagram_count < limit:
            try:
                payload, address = receive(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                if not self._survives_error():
                    break
                datagram_count += 1
                continue
            datagram_count += 1
            if (known := by_source.get(address)) is None:
                by_source[address] = [payload]
            else:
                known.append(payload)
        return datagram_count

    def _survives_error(self) -> bool:
        # An ICMP error of something that we sent concerns one peer, never the listener.
        self._counters.receive_errors += 1
        return self._socket.fileno() >= 0

    def _source(self, address: Address) -> tuple[str, int]:
        host = address[0]
        if self._is_ipv6:
            if host.startswith(_MAPPED_PREFIX) and "." in host:
                host = host[len(_MAPPED_PREFIX) :]
            elif len(address) == 4 and address[3] and "%" not in host:
                host = f"{host}%{address[3]}"
        return (host, address[1])


def open_bound(
    endpoint: Endpoint, limits: SocketLimits, *, shares_port: bool = False, warns: bool = True
) -> socket.socket:
    """Return a UDP socket, bound and with its options set; port 0 picks a free one.

    Args:
        endpoint: where; ``[::]`` takes IPv4 too.
        limits: its buffers.
        shares_port: further sockets may be bound to the same address.
        warns: log it when the kernel caps the buffers.

    Raises:
        FlowError: the address is taken, not ours or of a family that this host lacks.
    """
    is_ipv6 = isinstance(endpoint.address, IPv6Address)
    try:
        udp_socket = socket.socket(
            socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM
        )
    except OSError as error:
        raise flow_error_from_os(error, f"open a socket for {endpoint}") from error
    try:
        if is_ipv6:
            only_ipv6 = not endpoint.address.is_unspecified
            udp_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_ipv6))
        if shares_port:
            udp_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        forbid_fragments(udp_socket)
        set_buffers(udp_socket, limits.receive_buffer_bytes, limits.send_buffer_bytes)
        udp_socket.bind((str(endpoint.address), endpoint.port))
    except OSError as error:
        udp_socket.close()
        raise flow_error_from_os(error, f"bind {endpoint}") from error
    if warns:
        _warn_if_capped(udp_socket, endpoint, limits)
    return udp_socket


def bind_udp(
    endpoint: Endpoint, *, limits: SocketLimits | None = None, counters: FlowCounters | None = None
) -> BatchUdpSocket:
    """Bind a batching UDP socket; with its keyword arguments bound, a DatagramSocketFactory.

    Raises:
        FlowError: the address is taken, not ours or of a family that this host lacks.
    """
    return BatchUdpSocket.bind(
        endpoint, limits=limits or SocketLimits(), counters=counters or FlowCounters()
    )


def socket_factory(
    limits: SocketLimits, counters: FlowCounters
) -> Callable[[Endpoint], BatchUdpSocket]:
    """Return a contract.ports.DatagramSocketFactory with limits and counters filled in."""
    return partial(bind_udp, limits=limits, counters=counters)


def forbid_fragments(udp_socket: socket.socket) -> None:
    """Set the don't-fragment bit and leave path MTU to whoever probes it, where the system can.

    RFC 9000 section 14: QUIC must not be fragmented. RFC 9298 section 6: nor what we relay.
    IP_PMTUDISC_PROBE, not DO: an ICMP message that anybody can forge must not shrink the path.
    """
    if sys.platform != "linux":
        return
    udp_socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    if udp_socket.family == socket.AF_INET6:
        udp_socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)


def set_buffers(udp_socket: socket.socket, receive_bytes: int, send_bytes: int) -> None:
    """Ask for socket buffers: beyond the system's cap if we may, else as much as it gives."""
    for forced, option, wanted_bytes in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_bytes),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, send_bytes),
    ):
        if sys.platform == "linux":
            try:
                udp_socket.setsockopt(socket.SOL_SOCKET, forced, wanted_bytes)
            except PermissionError:
                pass
            else:
                continue
        udp_socket.setsockopt(socket.SOL_SOCKET, option, wanted_bytes)


def _warn_if_capped(udp_socket: socket.socket, endpoint: Endpoint, limits: SocketLimits) -> None:
    for option, wanted_bytes, sysctl in (
        (socket.SO_RCVBUF, limits.receive_buffer_bytes, "net.core.rmem_max"),
        (socket.SO_SNDBUF, limits.send_buffer_bytes, "net.core.wmem_max"),
    ):
        got_bytes = udp_socket.getsockopt(socket.SOL_SOCKET, option)
        if sys.platform == "linux":
            got_bytes //= 2  # socket(7): the kernel doubles the value for its own bookkeeping
        if got_bytes < wanted_bytes:
            logger.warning(
                "The kernel caps a socket buffer of %s at %d bytes, %d were asked for; "
                "bursts will be lost. Raise it: sysctl -w %s=%d",
                endpoint,
                got_bytes,
                wanted_bytes,
                sysctl,
                wanted_bytes,
            )


def bound_endpoint(bound_socket: socket.socket) -> Endpoint:
    """Return what a socket is bound to."""
    return _endpoint(bound_socket.getsockname())


def _endpoint(name: Address) -> Endpoint:
    address = ip_address(name[0].partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return Endpoint(address=address, port=name[1])
