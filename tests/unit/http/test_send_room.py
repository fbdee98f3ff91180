"""A sender's wait for room."""

import asyncio

import pytest

from masque_relay.contract.counters import HttpCounters
from masque_relay.contract.verdict import EndReason
from masque_relay.http.limits import HttpLimits
from masque_relay.http.send_room import ClientDisconnectedError, SendRoom
from masque_relay.http.services import StreamServices
from tests.support.http_fakes import FakeClock, RecordingH3Transport, settle
from tests.support.http_rig import NO_APPLICATION


class Sender:
    """A room over a stream that holds what the test says."""

    def __init__(self, *, timeout_s: float = 30.0) -> None:
        self.transport = RecordingH3Transport(NO_APPLICATION)
        self.is_gone = False
        self.aborted: list[EndReason] = []
        services = StreamServices(
            transport=self.transport,
            limits=HttpLimits(send_high_water_bytes=100, send_timeout_s=timeout_s),
            counters=HttpCounters(),
            clock=FakeClock(),
            stop_when_sent=lambda _: None,
        )
        self.room = SendRoom(services, 0, is_gone=lambda: self.is_gone, abort=self._abort)

    def _abort(self, reason: EndReason, code: int) -> None:
        self.aborted.append(reason)
        self.is_gone = True


async def test_below_the_mark_nobody_waits() -> None:
    sender = Sender()
    sender.transport.unsent[0] = 100
    with pytest.raises(StopIteration):  # without a turn of the loop
        sender.room.wait().send(None)


async def test_above_it_a_sender_waits_until_enough_has_left() -> None:
    sender = Sender()
    sender.transport.unsent[0] = 300
    waiting = asyncio.ensure_future(sender.room.wait())
    for unsent_bytes in (300, 200, 101):
        sender.transport.unsent[0] = unsent_bytes
        sender.room.wake()
        await settle()
        assert not waiting.done()
    sender.transport.unsent[0] = 100
    sender.room.wake()
    await waiting


async def test_a_client_that_goes_meanwhile_is_an_error_for_the_sender() -> None:
    sender = Sender()
    sender.transport.unsent[0] = 300
    waiting = asyncio.ensure_future(sender.room.wait())
    await settle()
    sender.is_gone = True
    sender.room.wake()
    with pytest.raises(ClientDisconnectedError):
        await waiting


async def test_a_client_that_takes_nothing_loses_the_stream() -> None:
    sender = Sender(timeout_s=0.001)
    sender.transport.unsent[0] = 300
    with pytest.raises(ClientDisconnectedError):
        await sender.room.wait()
    assert sender.aborted == [EndReason.IDLE]
