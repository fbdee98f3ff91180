"""Owns the private channel between a supervisor and a worker: JSON messages on a Unix stream.

A message is its length (4 bytes) and a JSON object. ``op`` asks, ``re`` answers the question of
that number; a message without a number wants no answer. Both ends are our own processes and the
socket has no name, so nobody else can speak here.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import orjson

MAX_MESSAGE_BYTES = 64 << 20
"""20,000 tunnels are 8 MB; what is larger is a bug, not a message."""
_LENGTH_BYTES = 4

Fields = dict[str, object]


class ChannelError(Exception):
    """The other end is gone, did not answer in time, or failed to do what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the other end wants."""

    op: str
    fields: Fields
    number: int | None
    """To be given with the answer; None: no answer is wanted."""


class Channel(asyncio.Protocol):
    """One end. Everything happens in the event loop that :meth:`open` was called in."""

    def __init__(
        self,
        on_question: Callable[[Question], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Take what is called for each question, and once when the other end is gone."""
        self._on_question = on_question
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        # Not from 0: an answer to the last owner of our end must not be taken for one of ours.
        self._numbers = secrets.randbits(40)
        self._answers: dict[int, asyncio.Future[object]] = {}
        self._paused = False
        self._all_sent = asyncio.Event()
        self._all_sent.set()

    async def open(self, end: socket.socket, *, unread: bytes = b"") -> None:
        """Take over a connected socket, and what its last owner had read of a message."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=end)
        self.data_received(unread)

    async def ask(self, op: str, fields: Fields | None = None, *, timeout_s: float) -> object:
        """Return the other end's answer.

        Raises:
            ChannelError: there is none.
        """
        self._numbers += 1
        number = self._numbers
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._send({"op": op, "n": number, "fields": fields or {}})
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError as error:
            raise ChannelError(f"no answer to {op} within {timeout_s:.0f} s") from error
        finally:
            self._answers.pop(number, None)

    def tell(self, op: str, fields: Fields | None = None) -> None:
        """Send what wants no answer.

        Raises:
            ChannelError: the other end is gone.
        """
        self._send({"op": op, "fields": fields or {}})

    def answer(self, question: Question, value: object) -> None:
        """Answer a question; nothing when none is wanted or nobody is there any more."""
        if question.number is not None and self._transport is not None:
            self._send({"re": question.number, "value": value})

    def answer_failed(self, question: Question, reason: str) -> None:
        """Say that a question could not be answered."""
        if question.number is not None and self._transport is not None:
            self._send({"re": question.number, "failed": reason})

    async def release(self) -> bytes:
        """Read no more and wait until all is sent; return what was read of a next message.

        The socket stays open, for whoever takes it over.
        """
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()
            await self._all_sent.wait()
        return bytes(self._unread)

    def close(self) -> None:
        """Close; idempotent."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0)

    def pause_writing(self) -> None:
        """Note that something waits to be sent."""
        self._all_sent.clear()

    def resume_writing(self) -> None:
        """Note that all is sent."""
        self._all_sent.set()

    def data_received(self, data: bytes) -> None:
        """Take whole messages as they come."""
        self._unread += data
        while not self._paused and len(self._unread) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._unread[:_LENGTH_BYTES], "big")
            if end > MAX_MESSAGE_BYTES:
                raise RuntimeError("the other end of a private channel speaks nonsense")
            if len(self._unread) < end:
                return
            message = cast("Fields", orjson.loads(self._unread[_LENGTH_BYTES:end]))
            del self._unread[:end]
            self._take(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail who waits for an answer."""
        del exc
        self._transport = None
        self._all_sent.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ChannelError("the other end is gone"))
        self._on_lost()

    # -- inside ---------------------------------------------------------------------------------

    def _take(self, message: Fields) -> None:
        number = cast("int | None", message.get("re"))
        if number is None:
            self._on_question(
                Question(
                    op=cast("str", message["op"]),
                    fields=cast("Fields", message["fields"]),
                    number=cast("int | None", message.get("n")),
                )
            )
            return
        answer = self._answers.get(number)
        if answer is None or answer.done():
            return  # too late: who asked has given up
        if "failed" in message:
            answer.set_exception(ChannelError(str(message["failed"])))
        else:
            answer.set_result(message["value"])

    def _send(self, message: Fields) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ChannelError("the other end is gone")
        data = orjson.dumps(message)
        self._transport.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
