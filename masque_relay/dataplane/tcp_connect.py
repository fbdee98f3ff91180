"""Owns the opening of TCP connections: Happy Eyeballs over admitted endpoints (RFC 8305)."""

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.dataplane.errors import flow_error_from_os

ATTEMPT_DELAY_S = 0.25
"""RFC 8305 section 8: the recommended Connection Attempt Delay."""


async def connect_first(
    endpoints: Sequence[Endpoint],
    *,
    timeout_s: float,
    egress_by_version: Mapping[int, IPAddress],
    attempt_delay_s: float = ATTEMPT_DELAY_S,
) -> socket.socket:
    """Return a connected, non-blocking socket to the first endpoint that answers.

    Args:
        endpoints: in the order in which they are tried; at least one.
        timeout_s: for all of them together.
        egress_by_version: source addresses by IP version.
        attempt_delay_s: how long an attempt runs before the next one starts beside it; one that
            fails starts the next at once.

    Raises:
        FlowError: none answered. The first failure is told; CONNECTION_TIMEOUT where one was still
            being tried.
    """
    race = _Race(endpoints, egress_by_version, attempt_delay_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await race.run()
    except TimeoutError as error:
        tried = ", ".join(map(str, endpoints))
        raise FlowError(
            FlowFault.CONNECTION_TIMEOUT, f"connect to {tried}: no answer in {timeout_s:g} s"
        ) from error


class _Race:
    """The attempts for one connection: callbacks of the loop and one future, no task."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        egress_by_version: Mapping[int, IPAddress],
        attempt_delay_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = deque(endpoints)
        self._egress_by_version = egress_by_version
        self._attempt_delay_s = attempt_delay_s
        self._attempts: dict[socket.socket, Endpoint] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._first_error: FlowError | None = None
        self._winner: socket.socket | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> socket.socket:
        """Return the winner; every other socket is closed."""
        try:
            self._start_next()
            await self._over
            winner, self._winner = self._winner, None
        finally:
            self._close()
        if winner is None:
            raise self._first_error or FlowError(FlowFault.DESTINATION_UNAVAILABLE, "no address")
        return winner

    def _start_next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and not self._over.done():
            endpoint = self._waiting.popleft()
            try:
                attempt = _begin(endpoint, self._egress_by_version.get(endpoint.address.version))
            except OSError as error:
                self._failed(error, endpoint)
                continue
            self._attempts[attempt] = endpoint
            self._loop.add_writer(attempt.fileno(), self._settled, attempt)
            if self._waiting:
                self._timer = self._loop.call_later(self._attempt_delay_s, self._start_next)
            return
        if not self._attempts and not self._over.done():
            self._over.set_result(None)

    def _settled(self, attempt: socket.socket) -> None:
        """One attempt has connected or failed."""
        self._loop.remove_writer(attempt.fileno())
        endpoint = self._attempts.pop(attempt)
        try:
            code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            if attempt.getsockname() == attempt.getpeername():
                # Linux connects a socket to itself when its port is chosen as the target's.
                raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
        except OSError as error:
            attempt.close()
            self._failed(error, endpoint)
            self._start_next()
            return
        self._winner = attempt
        if not self._over.done():
            self._over.set_result(None)

    def _failed(self, error: OSError, endpoint: Endpoint) -> None:
        if self._first_error is None:
            self._first_error = flow_error_from_os(error, f"connect to {endpoint}")

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for attempt in self._attempts:
            self._loop.remove_writer(attempt.fileno())
            attempt.close()
        self._attempts.clear()
        if self._winner is not None:  # cancelled in the turn in which it had won
            self._winner.close()


def _begin(endpoint: Endpoint, egress_address: IPAddress | None) -> socket.socket:
    """Return a socket that is connecting.

    Raises:
        OSError: it failed at once.
    """
    is_ipv6 = isinstance(endpoint.address, IPv6Address)
    attempt = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        attempt.settimeout(0.0)
        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if egress_address is not None:
            attempt.bind((str(egress_address), 0))
        with suppress(BlockingIOError):  # under way
            attempt.connect((str(endpoint.address), endpoint.port))
    except BaseException:
        attempt.close()
        raise
    return attempt
