"""A running splice of bytes: the bulk path between a stream and a session."""

from typing import Any

from structlog.testing import capture_logs

from masque_relay.contract.tunnel import StreamCarrier
from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.wire.errors import WireError
from tests.support.http_fakes import settle
from tests.support.http_rig import AppCall, Rig, ScriptedApp, serving

CLASSIC_HEAD = [(b":method", b"CONNECT"), (b":authority", b"192.0.2.7:80")]


class RecordingStreamSession:
    """A StreamSession that records, and raises when it is told to."""

    def __init__(self) -> None:
        self.carrier: StreamCarrier | None = None
        self.data = bytearray()
        self.calls: list[str] = []
        self.ends: list[EndReason] = []
        self.error: Exception | None = None

    def attach(self, carrier: StreamCarrier) -> None:
        self.carrier = carrier

    def on_stream_data(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.data += data

    def on_stream_end(self) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append("end")

    def on_stream_writable(self) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append("writable")

    def on_wake(self) -> None:
        self.calls.append("wake")

    def ended(self, reason: EndReason) -> None:
        self.ends.append(reason)


async def spliced(
    rig: Rig, app: ScriptedApp, session: RecordingStreamSession, **more: Any
) -> AppCall:
    """Open a classic tunnel and hand it to the session."""
    await rig.open_tunnel(headers=CLASSIC_HEAD)
    call = app.calls[-1]
    await call.start(200)
    await call.send({"type": "http.splice", "kind": "tcp", "sink": session, **more})
    return call


def way(session: RecordingStreamSession) -> StreamCarrier:
    assert session.carrier is not None
    return session.carrier


async def test_bytes_go_both_ways_without_the_application() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        call = await spliced(rig, app, session)
        rig.peer.data_received(0, b"up", end_stream=False)
        way(session).send(b"down")
        assert session.data == b"up"
        assert rig.transport.data[0] == b"down"
        call.finish()


async def test_credit_is_the_sessions_to_grant() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        await rig.open_tunnel(headers=CLASSIC_HEAD)
        rig.peer.data_received(0, b"early", end_stream=False)
        call = app.calls[-1]
        await call.start(200)
        await call.send({"type": "http.splice", "kind": "tcp", "sink": session})
        rig.peer.data_received(0, b"later", end_stream=False)
        assert session.data == b"earlylater"
        assert 0 not in rig.transport.consumed

        way(session).consume(10)
        assert rig.transport.consumed[0] == 10
        call.finish()


async def test_what_was_not_granted_at_the_end_goes_back_to_the_connection() -> None:
    """A client of HTTP/2 whose tunnels are cut off would run out of the connection's window."""
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        call = await spliced(rig, app, session)
        rig.peer.data_received(0, b"never passed on", end_stream=False)
        carrier = way(session)
        carrier.consume(6)
        carrier.abort(EndReason.IDLE)
        assert rig.transport.consumed[0] == 15
        rig.peer.data_received(0, b"under way", end_stream=False)
        carrier.consume(9)
        assert rig.transport.consumed[0] == 24
        call.finish()


async def test_each_side_of_the_stream_ends_on_its_own() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        call = await spliced(rig, app, session)
        rig.peer.data_received(0, b"", end_stream=True)
        assert session.calls == ["end"]
        assert not session.ends
        way(session).send(b"still")
        way(session).end_sending()
        assert rig.transport.data[0] == b"still"
        assert 0 in rig.transport.finished
        assert not session.ends

        way(session).finish()
        assert session.ends == [EndReason.PEER_CLOSED]
        done = await call.receive()
        assert done["type"] == "http.splice.done"
        assert (done["rx_bytes"], done["tx_bytes"]) == (0, 5)
        call.finish()


async def test_session_hears_when_bytes_have_left() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        call = await spliced(rig, app, session)
        rig.transport.unsent[0] = 7
        assert way(session).unsent_bytes == 7
        rig.peer.streams_writable()
        assert session.calls == ["writable"]
        call.finish()


async def test_malformed_bytes_reset_the_stream() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        await spliced(rig, app, session)
        session.error = WireError("bad", section="test")
        rig.peer.data_received(0, b"x", end_stream=False)
        assert rig.transport.resets[0] == H3Error.MESSAGE_ERROR
        assert session.ends == [EndReason.PROTOCOL_ERROR]
        app.calls[-1].finish()


async def test_bug_of_a_session_resets_its_stream_with_one_record() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        await spliced(rig, app, session)
        session.error = LookupError("bug")
        with capture_logs() as logs:
            rig.peer.data_received(0, b"x", end_stream=False)
            rig.peer.data_received(0, b"y", end_stream=True)
            rig.peer.streams_writable()
        assert rig.transport.resets[0] == H3Error.INTERNAL_ERROR
        assert session.ends == [EndReason.BUG]
        assert [record["log_level"] for record in logs] == ["error"]
        app.calls[-1].finish()


async def test_datagram_on_classic_connect_resets_the_stream() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        await spliced(rig, app, session)
        rig.peer.datagrams_received(0, [b"\0x"])
        assert rig.transport.resets[0] == H3Error.DATAGRAM_ERROR
        app.calls[-1].finish()


async def test_idle_tunnel_is_reset_and_bytes_that_only_wait_are_idle() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        await spliced(rig, app, session, limits={"idle": 100})
        rig.pass_idle_time(90)
        way(session).send(b"moves")
        rig.pass_idle_time(20)
        assert not session.ends
        way(session).send(b"waits")
        rig.transport.unsent[0] = 5
        rig.pass_idle_time(110)

        assert session.ends[0] is EndReason.IDLE
        assert rig.transport.resets[0] == H3Error.REQUEST_CANCELLED
        app.calls[-1].finish()


async def test_reset_by_the_client_ends_the_session() -> None:
    app, session = ScriptedApp(), RecordingStreamSession()
    async with serving(app) as rig:
        await spliced(rig, app, session)
        rig.peer.stream_reset_received(0, H3Error.REQUEST_CANCELLED)
        assert session.ends == [EndReason.PEER_RESET]
        way(session).send(b"late")
        way(session).end_sending()
        way(session).wake_later()
        assert 0 not in rig.transport.data
        await settle()
        app.calls[-1].finish()
