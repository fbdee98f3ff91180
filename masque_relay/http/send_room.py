"""Owns SendRoom: a sender's wait for its stream to have room again."""

import asyncio
from collections.abc import Callable

from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.http.services import StreamServices


class ClientDisconnectedError(OSError):
    """``send`` after the client is gone (ASGI 2.4: an OSError)."""


class SendRoom:
    """Holds senders back while the stream holds more than its high-water mark.

    A client that takes nothing for ``send_timeout_s`` loses the stream.
    """

    __slots__ = ("_abort", "_is_gone", "_limits", "_stream_id", "_transport", "_writable")

    def __init__(
        self,
        services: StreamServices,
        stream_id: int,
        *,
        is_gone: Callable[[], bool],
        abort: Callable[[EndReason, int], None],
    ) -> None:
        self._transport = services.transport
        self._limits = services.limits
        self._stream_id = stream_id
        self._is_gone = is_gone
        self._abort = abort
        self._writable: asyncio.Event | None = None
        """Made by the first sender that has to wait: most streams never have one."""

    def wake(self) -> None:
        """Bytes have left, or the stream is over."""
        if self._writable is not None:
            self._writable.set()

    async def wait(self) -> None:
        """Return once the stream holds less than the high-water mark.

        Raises:
            ClientDisconnectedError: the client is gone, or was given up here.
        """
        high_water_bytes = self._limits.send_high_water_bytes
        while (unsent := self._transport.unsent_bytes(self._stream_id)) > high_water_bytes:
            try:
                async with asyncio.timeout(self._limits.send_timeout_s):
                    await self._wait_less_unsent(unsent)
            except TimeoutError:
                self._abort(EndReason.IDLE, H3Error.REQUEST_CANCELLED)
            if self._is_gone():
                raise ClientDisconnectedError("the client is gone")

    async def _wait_less_unsent(self, unsent: int) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()
        while self._transport.unsent_bytes(self._stream_id) >= unsent and not self._is_gone():
            self._writable.clear()
            await self._writable.wait()
