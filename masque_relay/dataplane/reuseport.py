"""Owns UDP sockets that share one port: the group, and the kernel's selector among them (Linux).

The selector is a classic BPF program (socket(7), SO_ATTACH_REUSEPORT_CBPF), which needs no
privileges. It sees the UDP payload and returns a position in the group, which is the order in which
the sockets were bound; closing one would move another to its place, so nobody closes any.
"""

import ctypes
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from masque_relay.contract.address import Endpoint
from masque_relay.dataplane.batch_io import bound_endpoint, open_bound
from masque_relay.dataplane.errors import flow_error_from_os
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.dataplane.offload import enable_gro

_SO_ATTACH_REUSEPORT_CBPF = 51  # the socket module does not name it

# Classic BPF, linux/bpf_common.h and linux/filter.h.
_LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
_LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS
_SHIFT_RIGHT = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_MODULO = 0x94  # BPF_ALU | BPF_MOD | BPF_K
_ADD = 0x04  # BPF_ALU | BPF_ADD | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_IF_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x16  # BPF_RET | BPF_A
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: counted from the IP header

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


def can_steer() -> bool:
    """Whether this system picks among the sockets of a port as we say."""
    return sys.platform == "linux"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which position in the group a packet goes to."""

    is_quic: bool = True
    """False: every packet is "anything else" below, whatever its bytes look like."""
    modulus: int = 1
    """A QUIC packet: the first byte of its Destination Connection ID modulo this…"""
    offset: int = 0
    """… plus this."""
    other_modulus: int
    """Anything else: its source port modulo this…"""
    other_offset: int
    """… plus this."""


def program_for(selection: Selection) -> tuple[Instruction, ...]:
    """Return the selector. A packet that is too short for it goes to position 0."""
    by_source_port = (
        (_LOAD_BYTE, 0, 0, _NETWORK_HEADER),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_IF_EQUAL, 0, 2, 6),
        (_LOAD_HALF, 0, 0, _NETWORK_HEADER + 40),
        (_JUMP, 0, 0, 1),
        (_LOAD_HALF, 0, 0, _NETWORK_HEADER + 20),
        (_MODULO, 0, 0, selection.other_modulus),
        (_ADD, 0, 0, selection.other_offset),
        (_RETURN, 0, 0, 0),
    )
    if not selection.is_quic:
        return by_source_port
    return (
        (_LOAD_BYTE, 0, 0, 0),
        (_IF_BITS, 3, 0, 0x80),  # RFC 8999 section 5.1: a long header
        (_IF_BITS, 0, 6, 0x40),  # RFC 9443 section 3: below 64 it is not QUIC
        (_LOAD_BYTE, 0, 0, 1),  # a short header: the connection ID is next
        (_JUMP, 0, 0, 1),
        (_LOAD_BYTE, 0, 0, 6),  # a long header: after version and length
        (_MODULO, 0, 0, selection.modulus),
        (_ADD, 0, 0, selection.offset),
        (_RETURN, 0, 0, 0),
        *by_source_port,
    )


def open_group(endpoint: Endpoint, count: int, limits: SocketLimits) -> list[socket.socket]:
    """Bind so many sockets to one address, in order; port 0 picks a free one for all.

    Raises:
        FlowError: the address is taken, not ours or of a family that this host lacks.
    """
    # Without SO_REUSEPORT, which would let us join the port of another relay of the same user; the
    # kernel may even choose such a port where we leave it the choice.
    with open_bound(endpoint, limits, warns=False) as probe:
        endpoint = bound_endpoint(probe)
    members: list[socket.socket] = []
    try:
        for _ in range(count):
            members.append(open_bound(endpoint, limits, shares_port=True, warns=not members))
            # The kernel asks any member whether the group wants bursts.
            if limits.coalesce_receives:
                enable_gro(members[-1], enabled=True)
    except BaseException:
        for member in members:
            member.close()
        raise
    return members


def steer(member: socket.socket, selection: Selection) -> None:
    """Put a selector in force for the group of a socket, instead of the one before.

    Raises:
        FlowError: the kernel refused.
    """
    attach(member, program_for(selection))


def attach(member: socket.socket, program: Sequence[Instruction]) -> None:
    """Hand a classic BPF program to the kernel.

    Raises:
        FlowError: the kernel refused.
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are.
    description = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    try:
        member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, description)
    except OSError as error:
        raise flow_error_from_os(error, "choose among the sockets of a port") from error
