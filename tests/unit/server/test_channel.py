"""The channel between a supervisor and a worker."""

import asyncio
import socket
from collections.abc import AsyncGenerator

import pytest

from masque_relay.server.channel import Channel, ChannelError, Question

DEADLINE_S = 10.0


class End:
    """One end, which answers what it is asked by what it is told to."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.asked = asyncio.Event()
        self.lost = asyncio.Event()
        self.channel = Channel(self._on_question, self.lost.set)

    def _on_question(self, question: Question) -> None:
        self.questions.append(question)
        self.asked.set()
        match question.op:
            case "double":
                self.channel.answer(question, 2 * int(str(question.fields["number"])))
            case "fail":
                self.channel.answer_failed(question, "out of order")
            case _:
                pass


@pytest.fixture
async def ends() -> AsyncGenerator[tuple[End, End]]:
    pair = End(), End()
    for end, sock in zip(pair, socket.socketpair(), strict=True):
        await end.channel.open(sock)
    yield pair
    for end in pair:
        end.channel.close()


async def test_both_ends_ask_and_answer(ends: tuple[End, End]) -> None:
    one, other = ends
    answers = await asyncio.gather(
        *(one.channel.ask("double", {"number": n}, timeout_s=DEADLINE_S) for n in range(50)),
        other.channel.ask("double", {"number": 100}, timeout_s=DEADLINE_S),
    )
    assert answers == [*(2 * number for number in range(50)), 200]


async def test_a_message_of_megabytes_arrives_whole(ends: tuple[End, End]) -> None:
    one, other = ends
    one.channel.tell("dump", {"text": "x" * 3_000_000})
    async with asyncio.timeout(DEADLINE_S):
        await other.asked.wait()
    assert len(str(other.questions[0].fields["text"])) == 3_000_000
    assert other.questions[0].number is None


async def test_a_failure_is_told(ends: tuple[End, End]) -> None:
    with pytest.raises(ChannelError, match="out of order"):
        await ends[0].channel.ask("fail", timeout_s=DEADLINE_S)


async def test_no_answer_in_time_is_an_error_and_a_late_one_is_ignored(
    ends: tuple[End, End],
) -> None:
    one, other = ends
    with pytest.raises(ChannelError, match="no answer"):
        await one.channel.ask("ignore", timeout_s=0)
    async with asyncio.timeout(DEADLINE_S):
        await other.asked.wait()
    other.channel.answer(other.questions[0], "late")
    assert await one.channel.ask("double", {"number": 4}, timeout_s=DEADLINE_S) == 8


async def test_who_waits_learns_that_the_other_end_is_gone(ends: tuple[End, End]) -> None:
    one, other = ends

    async def leave() -> None:
        await other.asked.wait()
        other.channel.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(leave())
        with pytest.raises(ChannelError, match="gone"):
            await one.channel.ask("ignore", timeout_s=DEADLINE_S)
    assert one.lost.is_set()
    with pytest.raises(ChannelError, match="gone"):
        one.channel.tell("anything")


async def test_who_takes_a_channel_over_goes_on_in_the_middle_of_a_message() -> None:
    ours, theirs = socket.socketpair()
    first, far = End(), End()
    taken_over = ours.dup()
    await first.channel.open(ours)
    await far.channel.open(theirs)
    whole = b'{"op":"double","n":7,"fields":{"number":21}}'
    far.channel._transport.write(len(whole).to_bytes(4, "big") + whole[:10])  # type: ignore[union-attr] # it is open
    async with asyncio.timeout(DEADLINE_S):
        while not first.channel._unread:  # noqa: ASYNC110 - a buffer has no event
            await asyncio.sleep(0)
    unread = await first.channel.release()
    assert unread.endswith(whole[:10])
    follower = End()
    await follower.channel.open(taken_over, unread=unread)
    far.channel._transport.write(whole[10:])  # type: ignore[union-attr] # it is open
    async with asyncio.timeout(DEADLINE_S):
        await follower.asked.wait()
    assert follower.questions[0].fields == {"number": 21}
    for end in (first, far, follower):
        end.channel.close()
