"""Owns the tests of what a local proxy does about its connections; sockets are in integration."""

import asyncio
import contextlib

from masque_relay.client.limits import ProxyLimits
from masque_relay.client.proxy import LocalProxy
from masque_relay.client.proxy_sessions import ProgramConnection
from masque_relay.client.splice import Meter
from tests.support.byte_streams import stream_pair
from tests.support.client_fakes import FakeClock
from tests.unit.client.test_proxy_sessions import HOME, PROGRAM, TcpOpener


class Rig:
    """A proxy without listeners, and connections put into it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.proxy = LocalProxy(
            TcpOpener(), socks=None, limits=ProxyLimits(idle_timeout_s=100.0), clock=self.clock
        )

    def connect(self, *, is_association: bool = False) -> asyncio.Task[None]:
        stream, far = stream_pair()
        connection = ProgramConnection(
            stream=stream,
            program=PROGRAM,
            local=HOME,
            meter=Meter(clock=self.clock, last_active_s=self.clock.now_s),
            is_association=is_association,
        )

        async def serve(served: ProgramConnection, _: object) -> None:
            with contextlib.closing(far):
                await served.stream.read()

        task = asyncio.get_running_loop().create_task(self.proxy._serve(connection, serve))
        self.proxy._connections[task] = connection
        task.add_done_callback(self.proxy._connections.pop)
        return task


async def test_a_connection_on_which_nothing_moves_is_closed() -> None:
    rig = Rig()
    idle = rig.connect()
    rig.clock.now_s += 60.0
    busy = rig.connect()
    await asyncio.sleep(0)
    rig.clock.now_s += 40.0
    rig.proxy.sweep()
    await asyncio.wait([idle])
    assert idle.cancelled()
    assert not busy.done()
    assert rig.proxy.connection_count == 1
    assert rig.proxy.status()["idle_closed"] == 1
    busy.cancel()
    await asyncio.wait([busy])


async def test_an_association_may_be_silent() -> None:
    rig = Rig()
    association = rig.connect(is_association=True)
    await asyncio.sleep(0)
    rig.clock.now_s += 1_000.0
    rig.proxy.sweep()
    await asyncio.sleep(0)
    assert not association.done()
    association.cancel()
    await asyncio.wait([association])
