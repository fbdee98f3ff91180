"""HTTP/1.1 sessions in memory: keep-alive, bodies, Upgrade, refusals, the end (RFC 9112)."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from masque_relay.http.h1_session import H1Session
from masque_relay.http.limits import HttpLimits
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.wire.capsule import encode_capsule
from tests.support.http_fakes import settle
from tests.support.tcp_rig import FakeWire, TcpRig, tcp_rig
from tests.unit.http.test_h1_head import SMUGGLING, head
from tests.unit.http.test_h2_session import Tunnels, hello

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = head(
    "GET /x HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: connect-udp",
    "Capsule-Protocol: ?1",
)  # fmt: skip


class RefusingApp:
    """Refuses every request with a status."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.scopes.append(scope)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})


async def exchange(rig: TcpRig, session: H1Session, data: bytes) -> bytes:
    session.data_received(data)
    await settle()
    return rig.wire.take()


class TestRequests:
    async def test_two_requests_on_one_connection(self) -> None:
        async with tcp_rig(hello, alt_svc=b'h3=":443"') as rig:
            session = rig.h1()
            post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
            first = await exchange(rig, session, post)
            second = await exchange(rig, session, GET)

            assert first.startswith(b"HTTP/1.1 200 \r\nx-version: 1.1\r\n")
            assert b'alt-svc: h3=":443"\r\n' in first
            assert b"got body" in first
            assert second.startswith(b"HTTP/1.1 200")

    async def test_application_may_close_the_connection(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            headers = [(b"connection", b"close, upgrade"), (b"upgrade", b"connect-udp")]
            await send({"type": "http.response.start", "status": 426, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        async with tcp_rig(app) as rig:
            answer = await exchange(rig, rig.h1(), GET)

            assert b"upgrade: connect-udp\r\n" in answer
            assert rig.wire.is_closed

    async def test_bytes_one_by_one_and_chunks_with_trailers(self) -> None:
        async with tcp_rig(hello) as rig:
            session = rig.h1()
            request = (
                b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n2\r\nde\r\n0\r\nsum: 7\r\n\r\n"
            )
            for byte in request:
                session.data_received(bytes([byte]))
            await settle()

            assert b"got abcde" in rig.wire.take()

    async def test_pipeline_is_answered_in_order_and_bounded(self) -> None:
        app = RefusingApp(404)
        async with tcp_rig(app) as rig:
            session = rig.h1()
            answers = await exchange(rig, session, GET * 5)

            assert answers.count(b"HTTP/1.1 404") == 5
            assert not rig.wire.is_closed

    async def test_pipeline_behind_a_slow_request_waits_in_the_socket(self) -> None:
        async with tcp_rig(Tunnels()) as rig:  # answers, never ends
            session = rig.h1()
            session.data_received(GET)
            await settle()
            session.data_received(GET * 1_000)

            assert rig.wire.is_paused

    async def test_head_has_no_body(self) -> None:
        app = RefusingApp(404)
        async with tcp_rig(app) as rig:
            answer = await exchange(rig, rig.h1(), GET.replace(b"GET", b"HEAD"))

            assert b"content-length: 2\r\n" in answer
            assert answer.endswith(b"\r\n\r\n")
            assert not rig.wire.is_closed

    async def test_http10_is_closed_after_its_answer(self) -> None:
        async with tcp_rig(RefusingApp(200)) as rig:
            answer = await exchange(rig, rig.h1(), b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")

            assert answer.startswith(b"HTTP/1.1 200")
            assert rig.wire.is_closed

    async def test_expectation_is_met_before_the_body(self) -> None:
        async with tcp_rig(hello) as rig:
            session = rig.h1()
            request = head(
                "POST / HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue"
            )
            first = await exchange(rig, session, request)
            second = await exchange(rig, session, b"ok")

            assert first.startswith(b"HTTP/1.1 100 ")
            assert b"got ok" in second

    async def test_answer_before_the_end_of_the_request_closes(self) -> None:
        async with tcp_rig(RefusingApp(413)) as rig:
            request = head("POST / HTTP/1.1", "Host: a", "Content-Length: 100")
            answer = await exchange(rig, rig.h1(), request + b"begin")

            assert answer.startswith(b"HTTP/1.1 413")
            assert rig.wire.is_closed

    async def test_slow_reader_pauses_the_socket(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            session = rig.h1()
            session.data_received(head("POST / HTTP/1.1", "Host: a", "Content-Length: 900000"))
            await settle()
            session.data_received(bytes(300_000))
            assert rig.wire.is_paused

            app.may_read.set()
            await settle()
            assert not rig.wire.is_paused

    async def test_response_that_breaks_its_own_length_is_cut_off(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"too long"})

        async with tcp_rig(app) as rig:
            await exchange(rig, rig.h1(), GET)

            assert rig.wire.is_aborted


class TestRefused:
    @pytest.mark.parametrize("lines", SMUGGLING.values(), ids=SMUGGLING)
    async def test_ambiguous_head_is_400_and_the_end(self, lines: tuple[str, ...]) -> None:
        app = RefusingApp(200)
        async with tcp_rig(app) as rig:
            answer = await exchange(rig, rig.h1(), head(*lines) + GET)

            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.count(b"HTTP/1.1") == 1
            assert rig.wire.is_closed
            assert app.scopes == []
            assert rig.tcp.protocol_errors == 1

    @pytest.mark.parametrize("data", [b"GET / HTTP/1.1\nHost: a\n\n", b"\n"])
    async def test_bare_lf_is_refused_at_once(self, data: bytes) -> None:
        async with tcp_rig(hello) as rig:
            assert (await exchange(rig, rig.h1(), data)).startswith(b"HTTP/1.1 400 ")

    @pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
    async def test_head_that_is_too_large_is_431(self, end: bytes) -> None:
        async with tcp_rig(hello) as rig:
            data = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000 + end
            assert (await exchange(rig, rig.h1(), data)).startswith(b"HTTP/1.1 431 ")
            assert rig.wire.is_closed

    @pytest.mark.parametrize("body", [b"x\r\n", b"3\r\nabcX", b"-1\r\n"])
    async def test_broken_chunk_is_400(self, body: bytes) -> None:
        async with tcp_rig(hello) as rig:
            request = head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
            answer = await exchange(rig, rig.h1(), request + body)

            assert answer.startswith(b"HTTP/1.1 400 ")
            assert rig.wire.is_closed
            assert rig.http.requests_malformed == 1

    async def test_fault_that_the_request_code_finds_is_400_too(self) -> None:
        async with tcp_rig(hello) as rig:
            answer = await exchange(rig, rig.h1(), b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n")

            assert answer.startswith(b"HTTP/1.1 400 ")
            assert rig.http.requests_malformed == 1


class TestUpgrade:
    async def test_2xx_becomes_101_and_bytes_are_capsules(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            session = rig.h1()
            app.may_read.set()
            answer = await exchange(rig, session, UPGRADE)
            assert answer.startswith(b"HTTP/1.1 101 \r\nconnection: Upgrade\r\n")
            assert b"upgrade: connect-udp\r\n" in answer
            assert app.scopes[0]["method"] == "GET"
            assert app.scopes[0]["http_version"] == "1.1"
            assert app.scopes[0]["extensions"]["http.connect"]["form"] == "upgrade"

            await app.sends[0]({"type": "http.datagram.send", "data": b"\0down"})
            assert rig.wire.take() == encode_capsule(0, b"\0down")
            session.data_received(encode_capsule(0, b"\0up"))
            await settle()
            expected: Message = {"type": "http.datagram.receive", "data": b"\0up"}
            assert app.received[0] == [expected]

    async def test_optimistic_capsules_are_kept_until_the_101(self) -> None:
        """RFC 9931: a client MUST NOT send them, but they are no malformed message."""
        may_answer = asyncio.Event()
        inner = Tunnels()
        inner.may_read.set()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await may_answer.wait()
            await inner(scope, receive, send)

        async with tcp_rig(app) as rig:
            session = rig.h1()
            session.data_received(UPGRADE + encode_capsule(0, b"\0early"))
            session.data_received(encode_capsule(0, b"\0too"))
            await settle()
            may_answer.set()
            await settle()

            data = [message.get("data") for message in inner.received[0]]
            assert data == [b"\0early", b"\0too"]

    @pytest.mark.parametrize("status", [401, 403, 404, 429, 502, 503])
    async def test_refusal_closes_and_optimistic_bytes_become_no_request(self, status: int) -> None:
        """RFC 9931 section 6."""
        app = RefusingApp(status)
        async with tcp_rig(app) as rig:
            answer = await exchange(rig, rig.h1(), UPGRADE + GET)

            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert answer.count(b"HTTP/1.1") == 1
            assert b"connection: close\r\n" in answer
            assert rig.wire.is_closed
            assert len(app.scopes) == 1

    async def test_refused_classic_connect_closes(self) -> None:
        app = RefusingApp(501)
        async with tcp_rig(app) as rig:
            request = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"
            answer = await exchange(rig, rig.h1(), request + GET)

            assert answer.startswith(b"HTTP/1.1 501 ")
            assert rig.wire.is_closed
            assert len(app.scopes) == 1

    async def test_accepted_classic_connect_is_a_byte_stream(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            session = rig.h1()
            app.may_read.set()
            answer = await exchange(
                rig, session, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nhi"
            )
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" not in answer
            assert b"transfer-encoding" not in answer
            await app.sends[0]({"type": "http.response.body", "body": b"down", "more_body": True})

            assert rig.wire.take() == b"down"
            assert [message["body"] for message in app.received[0]] == [b"hi"]

    async def test_datagrams_for_a_full_socket_are_dropped_and_counted(self) -> None:
        limits = HttpLimits(capsule_backlog_bytes=5_000)
        async with tcp_rig(app := Tunnels(), limits=limits) as rig:
            session = rig.h1()
            await exchange(rig, session, UPGRADE)
            rig.wire.is_congested = True
            for _ in range(20):
                await app.sends[0]({"type": "http.datagram.send", "data": b"\0" * 1_000})

            assert rig.http.capsule_datagrams_dropped == 15
            assert rig.wire.take() == b""
            rig.wire.is_congested = False
            session.writable()
            assert len(rig.wire.take()) == 5 * 1_003

    async def test_unread_tunnel_bytes_pause_the_socket(self) -> None:
        async with tcp_rig(Tunnels()) as rig:
            session = rig.h1()
            await exchange(rig, session, UPGRADE)
            session.data_received(bytes(300_000))

            assert rig.wire.is_paused

    async def test_end_of_the_client_ends_the_tunnel(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            session = rig.h1()
            app.may_read.set()
            await exchange(rig, session, UPGRADE)
            session.end_received()
            await settle()
            session.wire_lost()
            await settle()

            kinds = [message["type"] for message in app.received[0]]
            assert kinds == ["http.request", "http.disconnect"]
            assert rig.front_end.connection_count == 0


class TestDeadlines:
    @pytest.mark.parametrize("begin", [b"", b"GET / HT"])
    async def test_head_that_does_not_come_in_time(self, begin: bytes) -> None:
        async with tcp_rig(hello) as rig:
            session = rig.h1()
            session.data_received(begin)
            assert not session.overdue(rig.clock.monotonic_s() + 14)
            assert session.overdue(rig.clock.monotonic_s() + 16)
            session.expire()

            assert rig.wire.take().startswith(b"HTTP/1.1 408 " if begin else b"")
            assert rig.wire.is_closed

    async def test_trickle_does_not_move_the_deadline(self) -> None:
        async with tcp_rig(RefusingApp(200)) as rig:
            session = rig.h1()
            await exchange(rig, session, GET)
            rig.clock.now_s += 60
            for byte in GET[:14]:
                session.data_received(bytes([byte]))
                rig.clock.now_s += 1
            assert not session.overdue(rig.clock.now_s)
            rig.clock.now_s += 2

            assert session.overdue(rig.clock.now_s)

    @pytest.mark.parametrize(("served", "limit_s"), [(b"", 15), (GET, 120)])
    async def test_empty_lines_do_not_move_the_deadline(self, served: bytes, limit_s: int) -> None:
        async with tcp_rig(RefusingApp(200)) as rig:
            session = rig.h1()
            await exchange(rig, session, served)
            for _ in range(limit_s + 1):
                session.data_received(b"\r\n")
                rig.clock.now_s += 1

            assert session.overdue(rig.clock.now_s)

    async def test_head_has_its_whole_time_after_an_empty_line(self) -> None:
        async with tcp_rig(RefusingApp(200)) as rig:
            session = rig.h1()
            await exchange(rig, session, GET + b"\r\n")
            rig.clock.now_s += 100
            session.data_received(GET[:5])

            assert not session.overdue(rig.clock.now_s + 14)

    async def test_idle_connection_may_wait_longer_than_a_head(self) -> None:
        async with tcp_rig(RefusingApp(200)) as rig:
            session = rig.h1()
            await exchange(rig, session, GET)

            assert not session.overdue(rig.clock.monotonic_s() + 119)
            assert session.overdue(rig.clock.monotonic_s() + 121)

    async def test_running_request_has_no_deadline_here(self) -> None:
        async with tcp_rig(Tunnels()) as rig:
            session = rig.h1()
            await exchange(rig, session, UPGRADE)

            assert not session.overdue(rig.clock.monotonic_s() + 10_000)


class TestDrain:
    async def test_idle_connection_closes_at_once(self) -> None:
        async with tcp_rig(RefusingApp(200)) as rig:
            await exchange(rig, rig.h1(), GET)
            rig.front_end.begin_drain()

            assert rig.wire.is_closed

    async def test_running_request_is_answered_with_close(self) -> None:
        may_answer = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            await may_answer.wait()
            await RefusingApp(200)(scope, receive, send)

        async with tcp_rig(app) as rig:
            await exchange(rig, rig.h1(), GET)
            rig.front_end.begin_drain()
            assert not rig.wire.is_closed
            may_answer.set()
            await settle()

            assert b"connection: close\r\n" in rig.wire.take()
            assert rig.wire.is_closed

    async def test_request_that_comes_during_the_drain_is_503(self) -> None:
        async with tcp_rig(RefusingApp(200)) as rig:
            session = rig.h1()
            session.data_received(GET[:8])
            rig.front_end.begin_drain()

            assert (await exchange(rig, session, GET[8:])).startswith(b"HTTP/1.1 503 ")
            assert rig.wire.is_closed


async def test_bytes_after_the_end_are_ignored() -> None:
    async with tcp_rig(hello, tcp_limits=TcpLimits()) as rig:
        session = rig.h1()
        await exchange(rig, session, b"\n")
        assert await exchange(rig, session, GET) == b""
        session.wire_lost()
        session.wire_lost()
        assert isinstance(rig.wire, FakeWire)
