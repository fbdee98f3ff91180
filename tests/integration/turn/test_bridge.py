"""A client with a bound UDP tunnel (MASQUE) and one of TURN reach each other through one relay."""

import asyncio

from masque_relay.client import (
    Bearer,
    RelayAddress,
    RelayClient,
    RelayOptions,
    open_bound_udp,
)
from masque_relay.stun.channel_data import encode_channel_head
from tests.support.turn_client import WAIT_S
from tests.support.turn_relay import TurnRelay

CHANNEL = 0x4000


async def test_they_reach_each_others_public_addresses(turn: TurnRelay) -> None:
    relay = turn.relay
    options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
    async with (
        RelayClient(RelayAddress.parse(relay.url), options) as client,
        asyncio.timeout(2 * WAIT_S),
    ):
        bound = await open_bound_udp(client.start_tunnel, client.address.bind_path)
        (public,) = bound.public
        with await asyncio.to_thread(turn.client) as other:
            relayed = await asyncio.to_thread(other.allocate)
            assert (await asyncio.to_thread(other.bind_channel, CHANNEL, public)).ok
            await asyncio.to_thread(other.send_channel, CHANNEL, b"from TURN")
            assert await bound.receive() == (b"from TURN", relayed)
            bound.send(b"from MASQUE", relayed)
            received = await asyncio.to_thread(other.receive)
            assert received == encode_channel_head(CHANNEL, 11) + b"from MASQUE"
            assert (await asyncio.to_thread(other.refresh, 0)).ok
        bound.close()
