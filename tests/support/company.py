"""Owns the neighbours of whoever knocks: somebody of each family, whose traffic must go on."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import assert_never

from fallbacks.derp.wire import FrameType
from masque_relay.client import RelayAddress, RelayClient, RelayOptions, UdpTunnel
from tests.support.derp_socket import DerpSocket
from tests.support.every_way import Family, Way
from tests.support.every_way_relay import EveryWayRelay, time_limited
from tests.support.mesh_arrival import WAIT_S, Neighbours, neighbours
from tests.support.turn_client import TurnClient, endpoint
from tests.support.udp_echo import run_udp_echo

CHANNEL = 0x4000
TUNNELS = 6
"""How many the company holds: a tunnel, two peers, an allocation, two DERP clients."""


class Company:
    """One neighbour of each family, who talks to an echo or to another of its kind."""

    def __init__(
        self,
        tunnel: UdpTunnel,
        peers: Neighbours,
        turn: TurnClient,
        derp: tuple[DerpSocket, DerpSocket],
    ) -> None:
        self._tunnel = tunnel
        self._peers = peers
        self._turn = turn
        self._derp = derp

    async def goes_on(self, family: Family) -> None:
        """See that the neighbour of a family still gets an answer."""
        said = secrets.token_bytes(8)
        match family:
            case Family.MASQUE:
                async with asyncio.timeout(WAIT_S):
                    self._tunnel.send(said)
                    while await self._tunnel.receive() != said:
                        pass
            case Family.GHOSTWIRE:
                await self._peers.go_on()
            case Family.TURN:
                self._turn.send_channel(CHANNEL, said)
                while self._turn.receive()[4:] != said:
                    pass
            case Family.DERP:
                one, other = self._derp
                one.send(FrameType.SEND_PACKET, other.public + said)
                number, body = other.frame()
                while number != FrameType.RECV_PACKET:  # such as Restarting
                    number, body = other.frame()
                assert body == one.public + said
            case _:
                assert_never(family)


@asynccontextmanager
async def company(relay: EveryWayRelay) -> AsyncGenerator[Company]:
    """Let a neighbour of each family in, as ``neighbour``, while the block runs."""
    name = "neighbour"
    async with AsyncExitStack() as stack:
        echo = stack.enter_context(run_udp_echo())
        options = RelayOptions(ca_file=relay.relay.ca_file, credential=relay.bearer(name))
        client = RelayClient(RelayAddress.parse(relay.relay.url), options)
        await stack.enter_async_context(client)
        tunnel = await stack.enter_async_context(client.open_udp("127.0.0.1", echo.port))
        peers = await stack.enter_async_context(neighbours(relay.relay, subject=name))
        door = relay.door(Way.TURN_UDP)
        turn = stack.enter_context(door.turn_client(time_limited(name)))
        turn.allocate()
        assert turn.bind_channel(CHANNEL, endpoint(("127.0.0.1", echo.port))).ok
        https, ca_file = relay.relay.ready["https"], relay.relay.ca_file
        one, other = (
            stack.enter_context(DerpSocket(https, ca_file, relay.keys[key])).enter()
            for key in (name, f"{name}-too")
        )
        yield Company(tunnel, peers, turn, (one, other))
