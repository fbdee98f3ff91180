"""The ASGI surface of one WebSocket, the test being both peer and app."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message

from masque_relay.http.codes import H3Error
from masque_relay.http.limits import HttpLimits
from masque_relay.http.send_room import ClientDisconnectedError
from masque_relay.http.websocket_settings import WebSocketSettings
from masque_relay.http.websocket_stream import WebSocketStream
from tests.support.http_fakes import GET_HEAD, settle
from tests.support.http_rig import AppCall, Rig, ScriptedApp, serving
from tests.support.websocket_frames import (
    BINARY,
    EXTENDED_HEAD,
    PING,
    TEXT,
    FrameReader,
    close_frame,
    frame,
)

ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close"}


class Peer:
    """One WebSocket from both ends."""

    def __init__(self, rig: Rig, call: AppCall) -> None:
        self.rig = rig
        self.call = call
        self.reader = FrameReader()
        self._read_bytes = 0

    @property
    def stream(self) -> WebSocketStream:
        (connection,) = self.rig.front_end._connections
        (stream,) = connection.streams
        assert isinstance(stream, WebSocketStream)
        return stream

    def send(self, data: bytes, *, end: bool = False) -> None:
        self.rig.peer.data_received(0, data, end_stream=end)

    def read(self) -> FrameReader:
        """Read what the server has sent by now."""
        data = self.rig.transport.data.get(0, b"")[self._read_bytes :]
        self._read_bytes += len(data)
        self.reader.feed(data)
        return self.reader

    def pass_time(self, seconds: float) -> None:
        """Move the clock and let the stream's timer fire."""
        self.rig.clock.now_s += seconds
        timer = self.stream._timer
        timer._run()  # it sets the next one, or ends the stream
        timer.cancel()


@asynccontextmanager
async def websocket(
    settings: WebSocketSettings | None = None,
    *more: tuple[bytes, bytes],
    accepted: bool = True,
    **limits: Any,
) -> AsyncGenerator[Peer]:
    app = ScriptedApp()
    http_limits = HttpLimits(
        websocket=settings or WebSocketSettings(), application_exit_s=0.01, **limits
    )
    async with serving(app, http_limits) as rig:
        await rig.request(0, [*EXTENDED_HEAD, *more], end=False)
        peer = Peer(rig, app.calls[0])
        assert await peer.call.receive() == {"type": "websocket.connect"}
        if accepted:
            await peer.call.send(ACCEPT)
        yield peer


class TestHandshake:
    async def test_scope_is_that_of_a_websocket(self) -> None:
        async with websocket(None, (b"sec-websocket-protocol", b"a, b")) as peer:
            scope = peer.call.scope
            assert scope["type"] == "websocket"
            assert scope["scheme"] == "wss"
            assert scope["path"] == "/echo"
            assert scope["subprotocols"] == ["a", "b"]
            assert scope["http_version"] == "3"
            assert "http.connect" not in scope["extensions"]
            assert "method" not in scope

    async def test_accept_is_a_200_with_subprotocol_and_headers(self) -> None:
        async with websocket(None, (b"sec-websocket-protocol", b"a"), accepted=False) as peer:
            await peer.call.send({**ACCEPT, "subprotocol": "a", "headers": [(b"X-Relay", b"yes")]})
            assert peer.rig.transport.status(0) == 200
            fields = peer.rig.transport.fields(0)
            assert fields[b"sec-websocket-protocol"] == b"a"
            assert fields[b"x-relay"] == b"yes"
            assert peer.rig.counters.websockets_opened == 1

    async def test_close_before_accept_is_403(self) -> None:
        async with websocket(accepted=False) as peer:
            await peer.call.send(CLOSE)
            assert peer.rig.transport.status(0) == 403
            assert 0 in peer.rig.transport.finished
            assert (await peer.call.receive())["type"] == "websocket.disconnect"

    async def test_refusal_is_the_applications_own_response(self) -> None:
        async with websocket(accepted=False) as peer:
            await peer.call.send(
                {
                    "type": "websocket.http.response.start",
                    "status": 401,
                    "headers": [(b"www-authenticate", b"Bearer")],
                }
            )
            body = {"type": "websocket.http.response.body"}
            await peer.call.send({**body, "body": b"who ", "more_body": True})
            assert 0 not in peer.rig.transport.finished
            await peer.call.send({**body, "body": b"are you"})
            assert peer.rig.transport.status(0) == 401
            assert peer.rig.transport.fields(0)[b"www-authenticate"] == b"Bearer"
            assert peer.rig.transport.data[0] == b"who are you"
            assert 0 in peer.rig.transport.finished

    @pytest.mark.parametrize("status", [101, 200, 204])
    async def test_a_success_is_no_refusal(self, status: int) -> None:
        async with websocket(accepted=False) as peer:
            with pytest.raises(ValueError, match="refusal"):
                await peer.call.send({"type": "websocket.http.response.start", "status": status})

    async def test_a_bad_handshake_never_reaches_the_application(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(application_exit_s=0.01)) as rig:
            await rig.request(0, [*EXTENDED_HEAD, (b"origin", b"https://evil.example")], end=False)
            assert rig.transport.status(0) == 403
            assert not app.calls
            await rig.request(4, GET_HEAD)
            assert len(app.calls) == 1

    async def test_an_application_that_does_not_answer_is_answered_for(self) -> None:
        async with websocket(accepted=False) as peer:
            peer.pass_time(30)
            assert peer.rig.transport.status(0) == 504
            assert (await peer.call.receive())["type"] == "websocket.disconnect"

    async def test_an_application_that_raises_is_500(self) -> None:
        async with websocket(accepted=False) as peer:
            peer.call.finish(ValueError("bug"))
            await settle()
            assert peer.rig.transport.status(0) == 500

    async def test_frames_before_the_answer_are_kept(self) -> None:
        async with websocket(accepted=False) as peer:
            sent = frame(TEXT, b"early")
            peer.send(sent)
            assert peer.rig.transport.consumed.get(0, 0) == 0
            await peer.call.send(ACCEPT)
            assert (await peer.call.receive())["text"] == "early"
            assert peer.rig.transport.consumed[0] == len(sent)


class TestMessages:
    async def test_both_ways(self) -> None:
        async with websocket() as peer:
            peer.send(frame(TEXT, b"hi") + frame(BINARY, b"\x00"))
            assert await peer.call.receive() == {"type": "websocket.receive", "text": "hi"}
            assert await peer.call.receive() == {"type": "websocket.receive", "bytes": b"\x00"}
            await peer.call.send({"type": "websocket.send", "text": "ho"})
            await peer.call.send({"type": "websocket.send", "bytes": b"\x01", "text": None})
            assert peer.read().messages == ["ho", b"\x01"]

    async def test_a_waiting_application_is_woken(self) -> None:
        async with websocket() as peer:
            waiting = asyncio.ensure_future(peer.call.receive())
            await settle()
            peer.send(frame(TEXT, b"now"))
            assert (await waiting)["text"] == "now"

    async def test_credit_follows_the_application(self) -> None:
        async with websocket() as peer:
            sent = frame(BINARY, b"x" * 1_000)
            peer.send(sent)
            assert peer.rig.transport.consumed[0] == len(sent) - 1_000
            await peer.call.receive()
            assert peer.rig.transport.consumed[0] == len(sent)

    async def test_a_sender_waits_for_room(self) -> None:
        async with websocket(send_high_water_bytes=10) as peer:
            peer.rig.transport.unsent[0] = 11
            sending = asyncio.ensure_future(
                peer.call.send({"type": "websocket.send", "bytes": b"x"})
            )
            await settle()
            assert not sending.done()
            peer.rig.transport.unsent[0] = 0
            peer.rig.peer.streams_writable()
            await sending

    async def test_pongs_wait_for_room_too(self) -> None:
        async with websocket(send_high_water_bytes=10) as peer:
            peer.rig.transport.unsent[0] = 11
            for number in range(100):
                peer.send(frame(PING, bytes([number])))
            assert peer.read().pongs == []
            peer.rig.transport.unsent[0] = 0
            peer.rig.peer.streams_writable()
            assert peer.read().pongs == [bytes([99])]

    @pytest.mark.parametrize(
        "message",
        [
            {"type": "websocket.accept"},
            {"type": "http.response.start", "status": 200},
            {"type": "websocket.http.response.start", "status": 404},
            {"type": "websocket.frobnicate"},
        ],
    )
    async def test_what_does_not_fit_is_the_applications_bug(self, message: Message) -> None:
        async with websocket() as peer:
            with pytest.raises(RuntimeError, match="does not fit"):
                await peer.call.send(message)

    async def test_a_message_of_nothing_is_the_applications_bug(self) -> None:
        async with websocket() as peer:
            with pytest.raises(ValueError, match="neither"):
                await peer.call.send({"type": "websocket.send"})


class TestClientCloses:
    async def test_the_application_hears_it_after_the_messages_before(self) -> None:
        async with websocket() as peer:
            peer.send(frame(TEXT, b"last") + close_frame(4000, b"bye"))
            assert (await peer.call.receive())["text"] == "last"
            end = {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}
            assert await peer.call.receive() == end
            assert await peer.call.receive() == end
            assert peer.read().closed == (4000, "bye")
            assert 0 in peer.rig.transport.finished
            assert 0 not in peer.rig.transport.stopped

    async def test_a_client_that_leaves_its_side_open_is_stopped_after_a_while(self) -> None:
        async with websocket() as peer:
            peer.send(close_frame())
            peer.pass_time(5)
            assert peer.rig.transport.stopped[0] == H3Error.NO_ERROR

    async def test_then_nothing_can_be_sent(self) -> None:
        async with websocket() as peer:
            peer.send(close_frame())
            with pytest.raises(ClientDisconnectedError):
                await peer.call.send({"type": "websocket.send", "text": "late"})
            await peer.call.send(CLOSE)  # both at once: nothing is wrong

    async def test_breaking_the_rules_ends_it_with_the_reason(self) -> None:
        async with websocket() as peer:
            peer.send(frame(TEXT, b"\xff"))
            assert (await peer.call.receive())["code"] == 1007
            closed = peer.read().closed
            assert closed is not None
            assert closed[0] == 1007
            assert peer.rig.counters.websockets_failed == 1
            assert not peer.rig.transport.resets

    @pytest.mark.parametrize("how", ["end", "reset", "lost"])
    async def test_without_a_close_frame_it_is_1006(self, how: str) -> None:
        async with websocket() as peer:
            if how == "end":
                peer.send(b"", end=True)
            elif how == "reset":
                peer.rig.peer.stream_reset_received(0, H3Error.REQUEST_CANCELLED)
            else:
                peer.rig.peer.connection_lost(0, "")
            assert (await peer.call.receive())["code"] == 1006

    async def test_what_nobody_read_is_given_back(self) -> None:
        async with websocket() as peer:
            sent = frame(BINARY, b"x" * 1_000)
            peer.send(sent)
            peer.rig.peer.stream_reset_received(0, H3Error.REQUEST_CANCELLED)
            assert peer.rig.transport.consumed[0] == len(sent)

    async def test_trailers_and_datagrams_are_stream_errors(self) -> None:
        async with websocket() as peer:
            peer.rig.peer.datagrams_received(0, [b"\0"])
            assert peer.rig.transport.resets[0] == H3Error.DATAGRAM_ERROR
        async with websocket() as peer:
            peer.rig.peer.headers_received(0, [(b"x", b"y")], end_stream=True)
            assert peer.rig.transport.resets[0] == H3Error.MESSAGE_ERROR


class TestApplicationCloses:
    async def test_it_waits_for_the_client(self) -> None:
        async with websocket() as peer:
            closing = asyncio.ensure_future(
                peer.call.send({**CLOSE, "code": 4001, "reason": "done"})
            )
            await settle()
            assert peer.read().closed == (4001, "done")
            assert not closing.done()
            assert 0 not in peer.rig.transport.finished
            peer.send(close_frame(4001))
            await closing
            assert 0 in peer.rig.transport.finished
            assert (await peer.call.receive())["code"] == 4001

    async def test_but_not_for_ever(self) -> None:
        async with websocket(WebSocketSettings(close_timeout_s=0.001)) as peer:
            await peer.call.send(CLOSE)
            assert 0 in peer.rig.transport.finished

    @pytest.mark.parametrize("code", [0, 999, 5_000])
    async def test_a_code_that_does_not_exist_is_its_bug(self, code: int) -> None:
        async with websocket() as peer:
            with pytest.raises(ValueError, match="close code"):
                await peer.call.send({**CLOSE, "code": code})

    async def test_returning_closes_and_raising_closes_with_1011(self) -> None:
        for error, code in ((None, 1000), (ValueError("bug"), 1011)):
            async with websocket() as peer:
                peer.call.finish(error)
                await settle()
                assert peer.read().closed == (code, "")
                assert 0 in peer.rig.transport.finished


class TestSupervision:
    async def test_end_closes_without_the_application(self) -> None:
        async with websocket() as peer:
            peer.call.scope["extensions"]["websocket.end"](1008, "revoked")
            assert peer.read().closed == (1008, "revoked")
            end = await peer.call.receive()
            assert (end["code"], end["reason"]) == (1008, "revoked")

    async def test_end_before_the_answer_is_403(self) -> None:
        async with websocket(accepted=False) as peer:
            peer.call.scope["extensions"]["websocket.end"](1008, "revoked")
            assert peer.rig.transport.status(0) == 403

    async def test_a_relay_that_goes_away_says_1001(self) -> None:
        async with websocket() as peer:
            await peer.rig.front_end.drain(grace_s=0)
            closed = peer.read().closed
            assert closed is not None
            assert closed[0] == 1001
            assert not peer.rig.transport.resets


class TestLife:
    async def test_a_silent_client_is_pinged_then_given_up(self) -> None:
        async with websocket() as peer:
            peer.pass_time(20)
            peer.pass_time(20)
            assert len(peer.read().pings) == 2
            peer.pass_time(20)
            assert peer.rig.transport.resets[0] == H3Error.REQUEST_CANCELLED
            assert (await peer.call.receive())["code"] == 1006
            assert peer.rig.counters.websockets_silent == 1

    async def test_any_bytes_are_a_sign_of_life(self) -> None:
        async with websocket() as peer:
            for _ in range(10):
                peer.pass_time(19)
                peer.send(frame(PING)[:1] if _ % 2 else frame(PING)[1:])
            assert not peer.rig.transport.resets

    async def test_a_client_that_our_application_keeps_waiting_is_not_silent(self) -> None:
        async with websocket(WebSocketSettings(queue_count=1)) as peer:
            peer.send(frame(TEXT, b"unread"))
            for _ in range(5):
                peer.pass_time(60)
            assert not peer.rig.transport.resets
