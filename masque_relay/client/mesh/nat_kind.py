"""Owns what STUN tells about the NAT between us and a relay (RFC 5780 section 4)."""

import asyncio
import secrets
import socket
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from masque_relay.stun.binding import (
    CHANGE_IP,
    CHANGE_PORT,
    TRANSACTION_BYTES,
    BindingAnswer,
    decode_binding,
    encode_binding_request,
)
from masque_relay.wire.errors import WireError

Address = tuple[str, int]

WAITS_S = (0.3, 0.6, 1.2)
"""For one answer; the request is sent again after each. RFC 8489 section 6.2.1 begins at 500 ms."""
MAX_ANSWER_BYTES = 2_048


class NatKind(StrEnum):
    """Which NAT there is, by what matters for direct paths."""

    NONE = "none"
    """The relay sees the socket's own address."""
    FULL_CONE = "full-cone"
    """One mapping for all, and everybody may answer."""
    ADDRESS_RESTRICTED = "address-restricted"
    """One mapping for all; only addresses that were spoken to may answer."""
    PORT_RESTRICTED = "port-restricted"
    """One mapping for all; only ports that were spoken to may answer."""
    SYMMETRIC = "symmetric"
    """Another mapping for every destination: hole punching fails against most others."""
    SOME = "some"
    """There is one; this relay has no second address to find out which (RFC 5780)."""
    UNKNOWN = "unknown"
    """No answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatReport:
    """What was found."""

    kind: NatKind
    seen_as: Address | None = None
    """How the relay sees a UDP socket of this machine."""


async def find_nat(observer: Address) -> NatReport:
    """Ask a STUN server, and its other addresses where it has some.

    Args:
        observer: the server; an address, not a name.
    """
    family = socket.AF_INET6 if ip_address(observer[0]).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)  # noqa: FBT003  (its only way to be called)
        asking.bind(("", 0))
        first = await _ask(asking, observer)
        if first is None:
            return NatReport(kind=NatKind.UNKNOWN)
        if first.mapped == (_own_address(observer, family), asking.getsockname()[1]):
            return NatReport(kind=NatKind.NONE, seen_as=first.mapped)
        kind = NatKind.SOME
        if first.other is not None:
            kind = await _kind_by(asking, observer, first, first.other)
        return NatReport(kind=kind, seen_as=first.mapped)


async def _kind_by(
    asking: socket.socket, observer: Address, first: BindingAnswer, other: Address
) -> NatKind:
    # Filtering first (RFC 5780 section 4.4): the mapping test opens the filter for the others.
    if await _ask(asking, observer, change=CHANGE_IP | CHANGE_PORT) is not None:
        filtering = NatKind.FULL_CONE
    elif await _ask(asking, observer, change=CHANGE_PORT) is not None:
        filtering = NatKind.ADDRESS_RESTRICTED
    else:
        filtering = NatKind.PORT_RESTRICTED
    for server in ((other[0], observer[1]), other):  # section 4.3, tests II and III
        answer = await _ask(asking, server)
        if answer is None:
            return NatKind.SOME
        if answer.mapped != first.mapped:
            return NatKind.SYMMETRIC
    return filtering


async def _ask(asking: socket.socket, server: Address, *, change: int = 0) -> BindingAnswer | None:
    loop = asyncio.get_running_loop()
    transaction = secrets.token_bytes(TRANSACTION_BYTES)
    request = encode_binding_request(transaction, change=change)
    for wait_s in WAITS_S:
        try:
            async with asyncio.timeout(wait_s):
                await loop.sock_sendto(asking, request, server)
                while True:
                    payload, _ = await loop.sock_recvfrom(asking, MAX_ANSWER_BYTES)
                    answer = decode_binding(payload, transaction)
                    if answer is not None:
                        return answer
        except (TimeoutError, WireError):
            continue
        except OSError:
            return None
    return None


def _own_address(towards: Address, family: socket.AddressFamily) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect(towards)
            return str(asking.getsockname()[0])
    except OSError:
        return ""
