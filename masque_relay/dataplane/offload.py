"""Owns the kernel's UDP offloads: sends of whole runs (GSO), receives of whole bursts (GRO).

Linux only; elsewhere :func:`kernel_has_gso` and :func:`enable_gro` say no and every datagram takes
its own system call. Both offloads work from pure Python with one control message each.
"""

import errno
import socket
import struct
import sys
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from masque_relay.contract.counters import FlowCounters

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of the kernels before 6.9."""
MAX_RUN_BYTES = 65_000
"""An IP packet holds 65,535 bytes with its headers; the kernel refuses the whole send beyond."""
RECEIVE_BYTES = 65_536
"""No UDP datagram and no GRO burst is larger, so that a plain receive never truncates."""

GRO_ANCILLARY_BYTES = 64
"""Room for the one control message (24 bytes) that a GRO receive brings, and a little."""

_PROBE_CALLS = 64
_PROBE_DATAGRAMS_PER_CALL = 1.25
_PLAIN_DATAGRAMS_MIN = 1024
_PLAIN_DATAGRAMS_MAX = 65_536

_RUN_NOT_FIT = frozenset(
    (errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE)
)
_NO_ROOM = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM))

Address = tuple[str, int] | tuple[str, int, int, int]


class SendingSocket(Protocol):
    """The part of socket.socket that a sender needs."""

    def send(self, data: bytes, /) -> int:
        """As socket.send."""
        ...

    def sendto(self, data: bytes, address: Address, /) -> int:
        """As socket.sendto."""
        ...

    def sendmsg(
        self,
        buffers: Sequence[bytes],
        ancdata: Sequence[tuple[int, int, bytes]],
        flags: int,
        address: Address | None,
        /,
    ) -> int:
        """As socket.sendmsg."""
        ...


@cache
def kernel_has_gso() -> bool:
    """Return whether this kernel knows UDP_SEGMENT.

    Asked once: a kernel that does not know the control message ignores it and would send one giant
    datagram.
    """
    if sys.platform != "linux":
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
        except OSError:
            return False
    return True


def enable_gro(udp_socket: socket.socket, *, enabled: bool) -> bool:
    """Turn UDP_GRO on or off; return whether the kernel did."""
    if sys.platform != "linux":
        return False
    try:
        udp_socket.setsockopt(SOL_UDP, UDP_GRO, 1 if enabled else 0)
    except OSError:
        return False
    return True


class RunSender:
    """Sends batches: runs of equal sizes (the last may be shorter) in one system call each.

    Where the kernel refuses segments (no checksum offload on the device, an old kernel) it falls
    back to single sends once and for all; ``segmenting`` tells.
    """

    __slots__ = ("_counters", "_socket", "last_error", "segmenting")

    def __init__(
        self, udp_socket: SendingSocket, counters: FlowCounters, *, segmenting: bool
    ) -> None:
        self._socket = udp_socket
        self._counters = counters
        self.segmenting = segmenting and kernel_has_gso()
        self.last_error: OSError | None = None
        """What the last batch met besides full buffers and oversize; None if nothing."""

    def send(self, payloads: Sequence[bytes], address: Address | None) -> int:
        """Send in order, to ``address`` or to the connected peer; return how many were taken.

        Never blocks or raises. What finds no room is dropped and counted, and so is what is larger
        than the path takes.
        """
        self.last_error = None
        payload_count = len(payloads)
        if payload_count == 1:
            # The commonest send of a relay with thin flows: as _send_singly, without its loop.
            try:
                self._send_one(payloads[0], address)
            except OSError as error:
                return int(self._send_again(payloads[0], address, error))
            return 1
        if not self.segmenting:
            return self._send_singly(payloads, address)
        sent_count = 0
        start = 0
        while start < payload_count:
            end = _run_end(payloads, start)
            run = payloads if end - start == payload_count else payloads[start:end]
            if end - start == 1:
                sent_count += self._send_singly(run, address)
            else:
                sent_count += self._send_run(run, address)
            start = end
        return sent_count

    def _send_run(self, run: Sequence[bytes], address: Address | None) -> int:
        ancillary = ((SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(run[0]))),)
        for _ in range(2):
            try:
                self._socket.sendmsg(run, ancillary, 0, address)
            except OSError as error:
                code = error.errno
                if code in _NO_ROOM:
                    self._counters.send_dropped += len(run)
                    return 0
                if code in _RUN_NOT_FIT:
                    sent_count = self._send_singly(run, address)
                    # EINVAL may also mean "larger than the path": only a datagram that then went
                    # out on its own shows that it was the segments that the kernel refused.
                    if code != errno.EMSGSIZE and sent_count:
                        self.segmenting = False
                    return sent_count
                # The ICMP error of an earlier datagram: taken now, and nothing was sent.
                self.last_error = error
            else:
                self._counters.gso_sends += 1
                return len(run)
        self._counters.send_dropped += len(run)
        return 0

    def _send_singly(self, payloads: Sequence[bytes], address: Address | None) -> int:
        sent_count = 0
        for payload in payloads:
            try:
                self._send_one(payload, address)
            except OSError as error:
                if not self._send_again(payload, address, error):
                    continue
            sent_count += 1
        return sent_count

    def _send_again(self, payload: bytes, address: Address | None, error: OSError) -> bool:
        if error.errno not in _NO_ROOM:
            # It may be the ICMP error of an earlier datagram, as in _send_run.
            first_error = error
            try:
                self._send_one(payload, address)
            except OSError as second_error:
                error = second_error
            else:
                self.last_error = first_error
                return True
            if error.errno == errno.EMSGSIZE:
                self._counters.send_oversize += 1
                return False
            self.last_error = error
        self._counters.send_dropped += 1
        return False

    def _send_one(self, payload: bytes, address: Address | None) -> None:
        if address is None:
            self._socket.send(payload)
        else:
            self._socket.sendto(payload, address)


def _run_end(payloads: Sequence[bytes], start: int) -> int:
    """Return the index after the longest run from ``start`` that one GSO send may carry."""
    size = len(payloads[start])
    if size == 0:
        return start + 1
    limit = min(len(payloads), start + MAX_SEGMENTS, start + MAX_RUN_BYTES // size)
    end = start + 1
    while end < limit:
        next_size = len(payloads[end])
        if next_size != size:
            # Only the last segment may be shorter, and none may be empty.
            return end + 1 if 0 < next_size < size else end
        end += 1
    return end


class CoalescingGauge:
    """Decides per socket between receives with GRO and plain ones.

    A receive that can take a burst costs about 30 % more when there is none. So: 64 calls with GRO;
    if they brought hardly more than one datagram each, plain receives for a while, and twice as
    long each time that the next trial fails.
    """

    __slots__ = (
        "_calls",
        "_datagrams",
        "_is_allowed",
        "_plain_left",
        "_plain_next",
        "coalescing",
    )

    def __init__(self, *, coalescing: bool) -> None:
        self.coalescing = coalescing
        """What is in force now."""
        self._is_allowed = coalescing
        self._calls = 0
        self._datagrams = 0
        self._plain_left = 0
        self._plain_next = _PLAIN_DATAGRAMS_MIN

    def wants_plain(self, call_count: int, datagram_count: int) -> bool:
        """Take the tally of one drain with GRO; return whether to stop using it."""
        self._calls += call_count
        self._datagrams += datagram_count
        if self._calls < _PROBE_CALLS:
            return False
        worth_it = self._datagrams >= self._calls * _PROBE_DATAGRAMS_PER_CALL
        self._calls = self._datagrams = 0
        if worth_it:
            self._plain_next = _PLAIN_DATAGRAMS_MIN
        return not worth_it

    def switched_to_plain(self) -> None:
        """Note that the socket no longer coalesces."""
        self.coalescing = False
        self._plain_left = self._plain_next
        self._plain_next = min(2 * self._plain_next, _PLAIN_DATAGRAMS_MAX)

    def wants_trial(self, datagram_count: int) -> bool:
        """Take the tally of one plain drain; return whether to try GRO again.

        Never where it was not wanted, or not to be had, from the beginning.
        """
        self._plain_left -= datagram_count
        return self._plain_left <= 0 and self._is_allowed

    def switched_to_coalescing(self) -> None:
        """Note that the socket coalesces again."""
        self.coalescing = True


def stop_coalescing(udp_socket: socket.socket) -> bool:
    """Turn GRO off if no burst is waiting; return whether it is off now.

    A burst that was queued while GRO was on, read after it went off, would come without its segment
    size: many datagrams that look like one. So: off, then look; if something came in between, on
    again.
    """
    if not enable_gro(udp_socket, enabled=False):
        return False
    try:
        udp_socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:  # an asynchronous error, now taken; the queue was not seen
        pass
    enable_gro(udp_socket, enabled=True)
    return False


def split_burst(burst: bytes, ancillary: Sequence[tuple[int, int, bytes]]) -> list[bytes]:
    """Return the datagrams of one receive: the kernel says their size if it joined several."""
    for level, kind, value in ancillary:
        if level == SOL_UDP and kind == UDP_GRO and len(value) >= 4:
            (segment_size,) = struct.unpack("=i", value[:4])
            if 0 < segment_size < len(burst):
                return [burst[at : at + segment_size] for at in range(0, len(burst), segment_size)]
    return [burst]
