"""Owns the way around the relay: a TCP connection from this machine, for split rules."""

import asyncio
import errno
import socket

from masque_relay.client.proxy_answers import TargetFailed
from masque_relay.client.socket_stream import SocketStream
from masque_relay.contract.address import Target

_ERRORS = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ETIMEDOUT: "connection_timeout",
    errno.EHOSTUNREACH: "destination_unavailable",
    errno.ENETUNREACH: "destination_ip_unroutable",
}


async def open_direct(target: Target, *, timeout_s: float) -> SocketStream:
    """Look a target up here and connect to the first address that answers.

    Args:
        target: where to.
        timeout_s: for all of it.

    Raises:
        TargetFailed: no address, or none that answered, in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _connect(target)
    except TimeoutError:
        raise TargetFailed(
            f"{target} did not answer within {timeout_s:g} s", error="connection_timeout"
        ) from None


async def _connect(target: Target) -> SocketStream:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(str(target.host), target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TargetFailed(
            f"the name of {target} does not resolve here",
            error="dns_error",
            hint="a rule sends it past the relay, so that this machine looked the name up",
        ) from error
    last: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            candidate = socket.socket(family, kind, protocol)
        except OSError as error:
            last = error
            continue
        candidate.settimeout(0.0)
        try:
            await loop.sock_connect(candidate, address)
        except OSError as error:
            candidate.close()
            last = error
        except BaseException:
            candidate.close()
            raise
        else:
            return SocketStream(candidate)
    kind_of = _ERRORS.get(last.errno or 0) if last is not None else None
    reason = last.strerror if last is not None else "no address"
    raise TargetFailed(
        f"{target} cannot be reached directly: {reason}", error=kind_of or "destination_unavailable"
    )
