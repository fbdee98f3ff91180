"""Owns one connected UDP socket towards a target: batches to it, batches from it to the sink."""

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Self

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import DatagramSink
from masque_relay.dataplane.batch_io import forbid_fragments, set_buffers
from masque_relay.dataplane.errors import flow_error_from_os
from masque_relay.dataplane.limits import FlowLimits
from masque_relay.dataplane.offload import (
    GRO_ANCILLARY_BYTES,
    RECEIVE_BYTES,
    CoalescingGauge,
    RunSender,
    enable_gro,
    split_burst,
    stop_coalescing,
)

BATCH_COUNT = 64
"""Datagrams given to the sink in one call, and taken per wake-up: bounds the turn of one flow."""

_WAKE_UPS_PER_LOOK = 8
_QUEUED_ERRORS_PER_WAKE_UP = 16

# Linux values; the socket module does not name them.
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # linux/errqueue.h: struct sock_extended_err
_ORIGIN_LOCAL = 1
_NOT_ICMP = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM))


class ConnectedUdpFlow:
    """A UDP socket connected to one admitted endpoint; a contract.flow.UdpFlow.

    The kernel drops what comes from anybody else. Full buffers drop and count, both ways; nothing
    is queued here. ICMP errors go to the sink, at most one per turn of the loop, and the flow lives
    on.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_counters",
        "_dropped_count",
        "_error_pending",
        "_expected_count",
        "_gauge",
        "_local",
        "_loop",
        "_peer",
        "_sender",
        "_sink",
        "_socket",
        "_wake_ups",
    )

    def __init__(
        self,
        connected_socket: socket.socket,
        sink: DatagramSink,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: FlowLimits,
        counters: FlowCounters,
        buffer: bytearray,
    ) -> None:
        """Take over a connected, non-blocking socket and start to feed the sink.

        Args:
            connected_socket: :meth:`close` closes it.
            sink: hears nothing before this returns, nothing after :meth:`close`.
            loop: whose reader this becomes.
            limits: which offloads to use; the buffers are set by :meth:`open`.
            counters: shared by all flows.
            buffer: RECEIVE_BYTES to receive into; all flows of a loop may share one.
        """
        self._socket = connected_socket
        self._sink = sink
        self._loop = loop
        self._counters = counters
        self._buffer = buffer
        self._peer = _endpoint(connected_socket.getpeername())
        self._local = _endpoint(connected_socket.getsockname())
        self._sender = RunSender(connected_socket, counters, segmenting=limits.segment_sends)
        self._gauge = CoalescingGauge(
            coalescing=limits.coalesce_receives and enable_gro(connected_socket, enabled=True)
        )
        self._closed = False
        self._dropped_count = 0
        self._expected_count = BATCH_COUNT
        self._wake_ups = 0
        self._error_pending: OSError | None = None
        loop.add_reader(connected_socket.fileno(), self._on_readable)
        counters.flows_opened += 1
        counters.flows_open += 1

    @classmethod
    def open(
        cls,
        endpoint: Endpoint,
        sink: DatagramSink,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: FlowLimits,
        counters: FlowCounters,
        buffer: bytearray | None = None,
        egress_address: IPAddress | None = None,
    ) -> Self:
        """Open a socket, connect it and start to feed the sink.

        Args:
            endpoint: exactly where it connects to.
            sink: as in the constructor, and so are loop, limits and counters.
            loop: the running loop.
            limits: buffers and offloads.
            counters: shared by all flows.
            buffer: None = its own.
            egress_address: the source address; None = as the routing table says.

        Raises:
            FlowError: the kernel refused (unroutable, no resources).
        """
        try:
            udp_socket = _connect(endpoint, limits, egress_address)
        except OSError as error:
            raise flow_error_from_os(error, f"connect to {endpoint}") from error
        return cls(
            udp_socket,
            sink,
            loop=loop,
            limits=limits,
            counters=counters,
            buffer=bytearray(RECEIVE_BYTES) if buffer is None else buffer,
        )

    @property
    def peer(self) -> Endpoint:
        """The target that the socket is connected to."""
        return self._peer

    @property
    def local(self) -> Endpoint:
        """Our end, as the target sees it from this host."""
        return self._local

    @property
    def dropped_count(self) -> int:
        """Datagrams that the kernel would not take (full buffer, too large)."""
        return self._dropped_count

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send now; return how many the kernel took, the others are counted drops.

        Never blocks and never raises. A closed flow takes nothing.
        """
        if self._closed or not payloads:
            return 0
        sender = self._sender
        sent_count = sender.send(payloads, None)
        if sent_count != len(payloads):
            self._dropped_count += len(payloads) - sent_count
        if sender.last_error is not None:
            self._note_error(sender.last_error)
        return sent_count

    def close(self) -> None:
        """Close the socket; idempotent. The sink hears nothing afterwards."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._counters.flows_closed += 1
        self._counters.flows_open -= 1

    def _on_readable(self) -> None:
        if self._gauge.coalescing:
            calls, count = self._drain_bursts()
            if self._closed:
                return
            if self._gauge.wants_plain(calls, count) and stop_coalescing(self._socket):
                self._gauge.switched_to_plain()
        else:
            count = self._drain_plain()
            if self._closed:
                return
            if self._gauge.wants_trial(count) and enable_gro(self._socket, enabled=True):
                self._gauge.switched_to_coalescing()
        if count == 0:
            # Woken, and not by a datagram: an error waits.
            self._drain_errors()

    def _drain_bursts(self) -> tuple[int, int]:
        receive = self._socket.recvmsg_into
        buffers = (self._buffer,)
        view = memoryview(self._buffer)
        batch: list[bytes] = []
        call_count = datagram_count = 0
        while datagram_count < BATCH_COUNT:
            try:
                size, ancillary, flags, _ = receive(buffers, GRO_ANCILLARY_BYTES)
            except OSError as error:
                if error.errno not in _NOT_ICMP:
                    self._note_error(error)
                break
            call_count += 1
            if flags & socket.MSG_TRUNC:
                # RFC 9298 section 5: what we pass on is a whole UDP payload or nothing.
                self._counters.receive_errors += 1
                datagram_count += 1
                continue
            payloads = split_burst(bytes(view[:size]), ancillary)
            datagram_count += len(payloads)
            if len(payloads) > 1:
                self._counters.gro_receives += 1
            batch = batch + payloads if batch else payloads
        self._deliver(batch)
        return call_count, datagram_count

    def _drain_plain(self) -> int:
        receive = self._socket.recv
        batch: list[bytes] = []
        self._wake_ups += 1
        # The loop wakes us again for what is left; looking whether anything is costs as much as a
        # datagram. So a thin flow looks once in a while, and drains what that says it brings.
        is_look = self._wake_ups % _WAKE_UPS_PER_LOOK == 0
        limit = BATCH_COUNT if is_look else self._expected_count
        while len(batch) < limit:
            try:
                batch.append(receive(RECEIVE_BYTES))
            except OSError as error:
                if error.errno not in _NOT_ICMP:
                    self._note_error(error)
                break
        if is_look:
            self._expected_count = max(len(batch), 1)
        self._deliver(batch)
        return len(batch)

    def _deliver(self, batch: list[bytes]) -> None:
        """Feed the sink, which may close the flow; bursts may exceed what one call takes."""
        if 0 < len(batch) <= BATCH_COUNT:
            self._sink.on_batch(batch)
            return
        for start in range(0, len(batch), BATCH_COUNT):
            if self._closed:
                return
            self._sink.on_batch(batch[start : start + BATCH_COUNT])

    def _drain_errors(self) -> None:
        """Empty the socket's error queue: while it holds one the loop would wake us for ever."""
        if sys.platform != "linux":
            return
        for _ in range(_QUEUED_ERRORS_PER_WAKE_UP):
            try:
                _, ancillary, _, _ = self._socket.recvmsg(0, 512, _MSG_ERRQUEUE)
            except OSError:
                return
            for level, kind, value in ancillary:
                if (level, kind) in _EXTENDED_ERROR_KINDS and len(value) >= _EXTENDED_ERROR.size:
                    code, origin, *_ = _EXTENDED_ERROR.unpack_from(value)
                    # What this host refused was answered to the send call already.
                    if origin != _ORIGIN_LOCAL:
                        self._note_error(OSError(code, os.strerror(code)))

    def _note_error(self, error: OSError) -> None:
        """Tell the sink of an asynchronous error in the loop's next turn; count one per turn.

        Not at once: the sink may be in the middle of send_batch. Linux reports one ICMP message
        through the next call and through the error queue.
        """
        if self._error_pending is None:
            self._counters.receive_errors += 1
            self._loop.call_soon(self._report_error)
        self._error_pending = error

    def _report_error(self) -> None:
        error, self._error_pending = self._error_pending, None
        if error is not None and not self._closed:
            self._sink.on_flow_error(flow_error_from_os(error, f"relay to {self._peer}"))


_EXTENDED_ERROR_KINDS = frozenset(
    ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
)


def _connect(
    endpoint: Endpoint, limits: FlowLimits, egress_address: IPAddress | None
) -> socket.socket:
    is_ipv6 = isinstance(endpoint.address, IPv6Address)
    udp_socket = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp_socket.settimeout(0.0)
        forbid_fragments(udp_socket)
        set_buffers(udp_socket, limits.receive_buffer_bytes, limits.send_buffer_bytes)
        if sys.platform == "linux":
            # Without it Linux keeps "host unreachable" and "too big" to itself (udp(7)).
            if is_ipv6:
                udp_socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            else:
                udp_socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        if egress_address is not None:
            udp_socket.bind((str(egress_address), 0))
        udp_socket.connect((str(endpoint.address), endpoint.port))
        _discard_strangers(udp_socket)
    except BaseException:
        udp_socket.close()
        raise
    return udp_socket


def _discard_strangers(udp_socket: socket.socket) -> None:
    """Drop what came between bind and connect, when anybody could still send to the socket."""
    for _ in range(65_536):  # more than any queue holds
        try:
            udp_socket.recv(1)
        except OSError:
            return


def _endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    return Endpoint(address=ip_address(name[0].partition("%")[0]), port=name[1])
