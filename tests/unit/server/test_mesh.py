"""A bug in one session of the mesh ends that session, and nobody else's."""

import asyncio
from typing import Any, cast

from masque_relay.contract.counters import MeshCounters
from masque_relay.contract.request import RelayRequest
from masque_relay.contract.verdict import EndReason
from masque_relay.dataplane.switchboard import RelaySwitchboard
from masque_relay.server import mesh as mesh_module
from masque_relay.server.mesh import Mesh, MeshSettings
from masque_relay.tunnels.limits import GhostwireLimits
from masque_relay.wire.ghostwire import Auth, Binding, FrameType
from tests.support.gates import FakeClock
from tests.support.ghostwire_world import MemoryCarrier, World, arrival_without_lease


class BrokenGate:
    """Raises where it should answer."""

    generation = 0

    async def admit(self, request: RelayRequest) -> Any:
        raise RuntimeError(request.method)


def new_mesh(clock: FakeClock) -> Mesh:
    return Mesh(
        MeshSettings(limits=GhostwireLimits(), resolve_timeout_s=1, connect_timeout_s=1),
        gate=cast("Any", BrokenGate()),
        dataplane=cast("Any", None),
        switchboard=RelaySwitchboard(),
        clock=clock,
        counters=MeshCounters(),
    )


def inside(mesh: Mesh) -> Any:
    """What only the mesh itself calls."""
    return mesh


async def test_gate_that_raises_ends_the_session_and_not_the_mesh() -> None:
    async with new_mesh(FakeClock()) as mesh:
        session: Any = mesh.new_session(arrival_without_lease())
        carrier = MemoryCarrier(World(), 1_200)
        session.attach(carrier)
        states: Any = type(session._state)
        session._state = states.DECIDING
        auth = Auth(binding=Binding.CHALLENGE, peer_id=bytes(32), signature=bytes(64), token="")

        inside(mesh)._authenticate(session, auth)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert session.end_reason is EndReason.DENIED
        assert carrier.frames == [FrameType.ERROR]


async def test_session_that_raises_at_a_tick_ends_and_the_others_are_ticked_on() -> None:
    clock = FakeClock()
    async with new_mesh(clock) as mesh:
        sessions: list[Any] = [mesh.new_session(arrival_without_lease()) for _ in range(3)]
        broken = sessions[1]

        def raise_bug() -> None:
            raise RuntimeError("a bug")

        broken.on_tick = raise_bug
        clock.advance(mesh_module.TICK_S + GhostwireLimits().handshake_timeout_s)
        inside(mesh)._tick()

        assert broken.end_reason is EndReason.BUG
        assert [one.end_reason for one in sessions if one is not broken] == [EndReason.IDLE] * 2
