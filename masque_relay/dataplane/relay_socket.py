"""Owns the UDP socket of a relayed transport address: many peers, their ICMP errors, fragments."""

import socket
import struct
import sys
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv6Address, ip_address

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.relay_socket import PeerError, RelaySocketFactory
from masque_relay.dataplane.batch_io import BatchUdpSocket, set_buffers
from masque_relay.dataplane.errors import flow_error_from_os
from masque_relay.dataplane.limits import FlowLimits, SocketLimits

_ERRORS_PER_CALL = 16

# Linux values; the socket module does not name them.
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_DONT = 0
_PMTUDISC_PROBE = 3
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # linux/errqueue.h: struct sock_extended_err
_ORIGINS_ICMP = frozenset((2, 3))  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
_KINDS = frozenset(((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)))


class RelayUdpSocket(BatchUdpSocket):
    """A BatchUdpSocket for one relayed address; a contract.relay_socket.RelaySocket."""

    __slots__ = ("_forbids_fragments",)

    def __init__(
        self,
        bound_socket: socket.socket,
        *,
        limits: SocketLimits,
        counters: FlowCounters,
        buffer: bytearray | None = None,
    ) -> None:
        """As BatchUdpSocket; the kernel may fragment, and reports ICMP errors."""
        super().__init__(bound_socket, limits=limits, counters=counters, buffer=buffer)
        self._forbids_fragments = True
        self.forbid_fragments(forbidden=False)
        if sys.platform == "linux":
            bound_socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            if self._is_ipv6:
                bound_socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)

    def forbid_fragments(self, *, forbidden: bool) -> None:
        """Set the don't-fragment bit from now on, or let the kernel fragment what is too large."""
        if sys.platform != "linux" or forbidden == self._forbids_fragments or self._closed:
            return
        self._forbids_fragments = forbidden
        mode = _PMTUDISC_PROBE if forbidden else _PMTUDISC_DONT
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)
        if self._is_ipv6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)

    def take_errors(self) -> list[PeerError]:
        """Return the ICMP errors since the last call, a bounded number; they must be taken."""
        errors: list[PeerError] = []
        if sys.platform != "linux" or self._closed:
            return errors
        for _ in range(_ERRORS_PER_CALL):
            try:
                _, ancillary, _, address = self._socket.recvmsg(0, 512, _MSG_ERRQUEUE)
            except OSError:
                break
            errors += _icmp_errors(ancillary, self._source(address))
        return errors


def _icmp_errors(
    ancillary: Sequence[tuple[int, int, bytes]], peer: tuple[str, int]
) -> list[PeerError]:
    found: list[PeerError] = []
    for level, kind, value in ancillary:
        if (level, kind) not in _KINDS or len(value) < _EXTENDED_ERROR.size:
            continue
        _, origin, icmp_type, icmp_code, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
        if origin in _ORIGINS_ICMP:
            found.append(
                PeerError(
                    peer=Endpoint(address=ip_address(peer[0].partition("%")[0]), port=peer[1]),
                    icmp_type=icmp_type,
                    icmp_code=icmp_code,
                    mtu_bytes=info,
                )
            )
    return found


def bind_relay_socket(
    endpoint: Endpoint, *, limits: FlowLimits, counters: FlowCounters, buffer: bytearray
) -> RelayUdpSocket:
    """Bind the socket of a relayed address; port 0 picks a free one.

    Args:
        endpoint: one address, never a wildcard.
        limits: buffers and offloads.
        counters: shared by all.
        buffer: RECEIVE_BYTES to receive into; all sockets of a loop may share one.

    Raises:
        FlowError: the address is taken, not ours or of a family that this host lacks.
    """
    is_ipv6 = isinstance(endpoint.address, IPv6Address)
    what = f"bind {endpoint}"
    try:
        udp_socket = socket.socket(
            socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM
        )
    except OSError as error:
        raise flow_error_from_os(error, what) from error
    try:
        if is_ipv6:
            udp_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_buffers(udp_socket, limits.receive_buffer_bytes, limits.send_buffer_bytes)
        udp_socket.bind((str(endpoint.address), endpoint.port))
    except OSError as error:
        udp_socket.close()
        raise flow_error_from_os(error, what) from error
    offloads = SocketLimits(
        segment_sends=limits.segment_sends, coalesce_receives=limits.coalesce_receives
    )
    return RelayUdpSocket(udp_socket, limits=offloads, counters=counters, buffer=buffer)


def relay_socket_factory(
    limits: FlowLimits, counters: FlowCounters, buffer: bytearray
) -> RelaySocketFactory:
    """Return a factory with everything but the endpoint filled in."""
    return partial(bind_relay_socket, limits=limits, counters=counters, buffer=buffer)
