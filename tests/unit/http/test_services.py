"""What streams share: among it, when the peer is told to stop."""

from tests.support.http_fakes import settle
from tests.support.http_rig import Rig, ScriptedApp, serving


async def finished_tunnel(rig: Rig, app: ScriptedApp) -> None:
    await rig.open_tunnel()
    await app.calls[0].start(200)
    app.calls[0].finish()
    await settle()


async def test_peer_is_told_to_stop_only_when_our_bytes_have_arrived() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await finished_tunnel(rig, app)
        rig.transport.unsent[0] = 30
        rig.peer.streams_writable()
        assert not rig.transport.stopped

        rig.transport.unsent[0] = 0
        rig.peer.streams_writable()

        assert rig.transport.stopped == {0: 0x100}


async def test_peer_that_ends_its_side_by_itself_is_not_told() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await finished_tunnel(rig, app)
        rig.peer.data_received(0, b"", end_stream=True)
        rig.peer.streams_writable()

        assert not rig.transport.stopped


async def test_peer_that_resets_is_not_told() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await finished_tunnel(rig, app)
        rig.peer.stream_reset_received(0, 0x10C)
        rig.peer.streams_writable()

        assert not rig.transport.stopped
