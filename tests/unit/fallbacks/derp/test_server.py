"""The DERP server's own decisions."""

from typing import Any, cast

from fallbacks.derp.server import DerpServer, DerpSettings
from masque_relay.contract.counters import DerpCounters
from masque_relay.dataplane.switchboard import RelaySwitchboard
from tests.support.gates import FakeClock

MESH_KEY = "5e" * 32


async def test_mesh_key_is_the_operators_in_any_case_and_nothing_else() -> None:
    server = DerpServer(
        DerpSettings(private_key=bytes(range(32)), mesh_key=MESH_KEY),
        gate=cast("Any", None),
        switchboard=RelaySwitchboard(),
        clock=FakeClock(),
        counters=DerpCounters(),
    )
    assert server._is_mesh_key(MESH_KEY)
    assert server._is_mesh_key(MESH_KEY.upper())
    assert not server._is_mesh_key("5f" * 32)
    assert not server._is_mesh_key("\ud800")  # JSON's "\ud800" is no character
