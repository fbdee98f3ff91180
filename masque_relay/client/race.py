"""Owns which HTTP version a relay is reached by: the one asked for, or the first that works."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from masque_relay.client.errors import (
    ClientError,
    CredentialError,
    RelayIncapable,
    RelayTimeout,
    RelayUnreachable,
    RelayUntrusted,
)
from masque_relay.client.http_version import HttpChoice
from masque_relay.client.uplink import Uplink, UplinkParts, open_h3, open_tcp
from masque_relay.http.tcp_tls import ALPN_H1, ALPN_H2


async def open_uplink(parts: UplinkParts) -> Uplink:
    """Connect by the version that the options name; with AUTO by the first that works.

    HTTP/3 has a head start. When it fails, or takes longer, TLS over TCP is tried beside it; the
    first that is ready stays, the other is given up.

    Raises:
        ClientError: no way worked. Of two failures the one that says more is raised.
    """
    match parts.options.http:
        case HttpChoice.H3:
            return await open_h3(parts)
        case HttpChoice.H2:
            return await open_tcp(parts, (ALPN_H2,))
        case HttpChoice.H1:
            return await open_tcp(parts, (ALPN_H1,))
        case HttpChoice.AUTO:
            return await _Race(parts).run()


class _Race:
    """Two ways at once, of which at most one survives."""

    def __init__(self, parts: UplinkParts) -> None:
        self._parts = parts
        self._opened: list[Uplink] = []
        self._quic_failure: ClientError | None = None
        self._tcp_failure: ClientError | None = None
        self._quic_is_over = asyncio.Event()
        self._is_decided = asyncio.Event()

    async def run(self) -> Uplink:
        """Return the winner."""
        winner: Uplink | None = None
        try:
            async with asyncio.TaskGroup() as group:
                ways = [group.create_task(self._try_quic()), group.create_task(self._try_tcp())]
                await self._is_decided.wait()
                for way in ways:
                    way.cancel()
            winner = self._opened[0] if self._opened else None
        finally:
            for uplink in self._opened:
                if uplink is not winner:
                    await uplink.close()
        if winner is None:
            raise _most_telling(self._quic_failure, self._tcp_failure)
        return winner

    async def _try_quic(self) -> None:
        self._quic_failure = await self._try(open_h3(self._parts))
        self._quic_is_over.set()
        if isinstance(self._quic_failure, CredentialError):
            self._is_decided.set()  # a file that cannot be used is no better over TCP
        self._decide()

    async def _try_tcp(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._parts.options.tcp_limits.head_start_s):
                await self._quic_is_over.wait()
        self._tcp_failure = await self._try(_open_any_tcp(self._parts))
        self._decide()

    async def _try(self, opening: Awaitable[Uplink]) -> ClientError | None:
        try:
            self._opened.append(await opening)
        except ClientError as error:
            return error
        return None

    def _decide(self) -> None:
        if self._opened or (self._quic_failure is not None and self._tcp_failure is not None):
            self._is_decided.set()


async def _open_any_tcp(parts: UplinkParts) -> Uplink:
    """Connect by what TLS agrees on; by HTTP/1.1 where HTTP/2 takes no extended CONNECT."""
    try:
        return await open_tcp(parts, (ALPN_H2, ALPN_H1))
    except RelayIncapable:
        return await open_tcp(parts, (ALPN_H1,))


def _most_telling(quic: ClientError | None, tcp: ClientError | None) -> ClientError:
    """Return the failure that helps a person most."""
    failures = [failure for failure in (quic, tcp) if failure is not None]
    for kind in (CredentialError, RelayUntrusted, RelayIncapable):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    if isinstance(quic, RelayUnreachable | RelayTimeout) and tcp is not None:
        return type(quic)(f"{quic.message}; {tcp.message}", hint=quic.hint)
    return failures[0]
