"""Owns the tests of one program's connection: real bytes in front, fake targets behind."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import pytest

from masque_relay.client.errors import ClientError, TunnelRefused
from masque_relay.client.limits import ProxyLimits
from masque_relay.client.proxy_sessions import (
    ProgramConnection,
    ProxyServices,
    ProxyTotals,
    serve_http,
    serve_socks,
)
from masque_relay.client.splice import Meter
from masque_relay.client.split import SplitRule, SplitRules
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import DatagramSocket
from tests.support.byte_streams import FakeStream, broken, stream_pair
from tests.support.client_fakes import FakeClock, FakeOpener, FakeSocket
from tests.support.http_fakes import settle

HOME = Endpoint(address=ip_address("127.0.0.1"), port=1_080)
PROGRAM = Endpoint(address=ip_address("127.0.0.1"), port=5_555)
CONNECT = b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50"
ASSOCIATE = b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0"
GET = b"GET http://web.example/a HTTP/1.1\r\nHost: web.example\r\n\r\n"
Serve = Callable[[ProgramConnection, ProxyServices], Awaitable[None]]


class TcpOpener(FakeOpener):
    """Opens fake targets, or fails as told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Target] = []
        self.targets: list[FakeStream] = []
        self.tcp_failure: ClientError | None = None

    async def open_tcp(self, target: Target) -> FakeStream:
        self.asked.append(target)
        if self.tcp_failure is not None:
            raise self.tcp_failure
        self.targets.append(FakeStream())
        return self.targets[-1]


class Session:
    """A program that speaks to one session."""

    def __init__(self, **changes: Any) -> None:
        stream, self.program = stream_pair()
        self.opener = TcpOpener()
        self.udp_socket = FakeSocket(local=Endpoint(address=HOME.address, port=4_000))
        clock = FakeClock()
        self.services = ProxyServices(
            opener=self.opener,
            rules=changes.pop("rules", SplitRules()),
            login=None,
            limits=ProxyLimits(**changes),
            clock=clock,
            socket_factory=self._bind,
            totals=ProxyTotals(),
        )
        self.connection = ProgramConnection(
            stream=stream,
            program=PROGRAM,
            local=HOME,
            meter=Meter(clock=clock, last_active_s=clock.now_s),
        )
        self.bind_failure: FlowError | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def totals(self) -> ProxyTotals:
        return self.services.totals

    def _bind(self, endpoint: Endpoint) -> DatagramSocket:
        if self.bind_failure is not None:
            raise self.bind_failure
        return self.udp_socket

    async def begin(self, serve: Serve, data: bytes) -> bytes:
        """Send the first bytes; return what comes back."""

        async def serving() -> None:
            await serve(self.connection, self.services)

        self.task = asyncio.get_running_loop().create_task(serving())
        return await self.say(data)

    async def say(self, data: bytes) -> bytes:
        if data:
            self.program.send(data)
        for _ in range(5):
            await asyncio.sleep(0)
            await settle()
        with contextlib.suppress(BlockingIOError):
            return self.program.recv(65_536)
        return b""

    async def end(self) -> None:
        """Close the program's side and wait for the session."""
        self.program.close()
        assert self.task is not None
        with contextlib.suppress(ClientError):
            await self.task


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    running = Session()
    yield running
    await finish(running)


async def finish(running: Session) -> None:
    running.program.close()
    if running.task is not None:
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ClientError, TimeoutError):
            await running.task
    running.connection.stream.abort()


class TestSocks:
    async def test_bytes_flow_after_the_reply(self, session: Session) -> None:
        replies = await session.begin(serve_socks, CONNECT + b"early")
        assert replies == b"\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0"
        (target,) = session.opener.targets
        assert str(session.opener.asked[0]) == "192.0.2.7:80"
        await session.say(b" and late")
        assert target.written == b"early and late"
        target.arrive(b"answer")
        assert await session.say(b"") == b"answer"
        target.arrive(b"")
        await session.say(b"")
        await session.end()
        assert target.has_sent_end
        assert (session.totals.sent_bytes, session.totals.received_bytes) == (14, 6)
        assert session.totals.proxied == 1

    async def test_a_refusal_is_a_reply(self, session: Session) -> None:
        session.opener.tcp_failure = TunnelRefused(502, "no", error="connection_refused")
        replies = await session.begin(serve_socks, CONNECT)
        assert replies[2:4] == b"\x05\x05"
        await session.end()
        assert session.totals.failed == 1

    async def test_a_rule_that_blocks_asks_nobody(self) -> None:
        session = Session(rules=SplitRules([SplitRule.parse("block:192.0.2.0/24")]))
        replies = await session.begin(serve_socks, CONNECT)
        assert replies[2:4] == b"\x05\x02"
        assert session.opener.asked == []
        assert (session.totals.blocked, session.totals.failed) == (1, 1)
        await finish(session)

    async def test_a_slow_handshake_ends(self) -> None:
        session = Session(handshake_timeout_s=0.0)
        await session.begin(serve_socks, b"\x05")
        assert session.task is not None
        with pytest.raises(TimeoutError):
            await session.task
        await finish(session)

    async def test_a_program_that_leaves_in_the_handshake_is_counted(
        self, session: Session
    ) -> None:
        await session.begin(serve_socks, b"\x05\x01")
        await session.end()
        assert session.totals.handshake_failed == 1

    async def test_a_broken_target_breaks_the_program_off(self, session: Session) -> None:
        await session.begin(serve_socks, CONNECT)
        session.opener.targets[0].arrive(broken())
        await session.say(b"")
        assert session.totals.broken_off == 1
        assert session.connection.stream._socket.fileno() == -1


class TestAssociations:
    async def test_an_association_lives_as_long_as_its_connection(self, session: Session) -> None:
        never_readable, other = socket.socketpair()
        with never_readable, other:
            # the loop wants a descriptor to watch, which a fake socket has not
            session.udp_socket.fileno = never_readable.fileno  # type: ignore[method-assign]
            replies = await session.begin(serve_socks, ASSOCIATE)
            assert replies[2:] == b"\x05\x00\x00\x01\x7f\0\0\x01" + (4_000).to_bytes(2, "big")
            assert session.services.association_count == 1
            assert session.connection.is_association
            await session.end()
        assert session.services.association_count == 0
        assert session.udp_socket.closed

    async def test_beyond_the_limit_there_is_none(self) -> None:
        session = Session(associations=0)
        replies = await session.begin(serve_socks, ASSOCIATE)
        assert replies[2:4] == b"\x05\x01"
        assert session.totals.over_limit == 1
        await finish(session)

    async def test_without_a_port_there_is_none(self, session: Session) -> None:
        session.bind_failure = FlowError(FlowFault.RESOURCES, "none left")
        replies = await session.begin(serve_socks, ASSOCIATE)
        assert replies[2:4] == b"\x05\x01"


class TestHttp:
    async def test_a_connect_becomes_a_tunnel(self, session: Session) -> None:
        head = b"CONNECT web.example:443 HTTP/1.1\r\nHost: web.example:443\r\n\r\n"
        answer = await session.begin(serve_http, head + b"early")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert str(session.opener.asked[0]) == "web.example:443"
        assert session.opener.targets[0].written == b"early"

    async def test_requests_follow_each_other_to_their_own_targets(self, session: Session) -> None:
        await session.begin(serve_http, GET)
        response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        session.opener.targets[0].arrive(response)
        assert (await session.say(b"")).endswith(b"hi")
        await session.say(GET.replace(b"web.example", b"two.example"))
        session.opener.targets[1].arrive(response)
        assert (await session.say(b"")).endswith(b"hi")
        assert [str(target) for target in session.opener.asked] == [
            "web.example:80",
            "two.example:80",
        ]
        assert all(target.is_aborted for target in session.opener.targets)

    async def test_a_kept_connection_that_is_not_needed_any_more_ends_well(self) -> None:
        session = Session(handshake_timeout_s=0.1)
        await session.begin(serve_http, GET)
        session.opener.targets[0].arrive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        assert session.task is not None
        await session.task
        assert session.totals.handshake_failed == 0
        await finish(session)

    async def test_a_refusal_tells_its_reason(self, session: Session) -> None:
        session.opener.tcp_failure = TunnelRefused(
            403, "policy says no", error="http_request_denied", hint="ask the operator"
        )
        answer = await session.begin(serve_http, GET)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"ghostctl; error=http_request_denied" in answer
        assert b"next: ask the operator" in answer

    async def test_a_target_that_breaks_off_before_it_answers_is_a_bad_gateway(
        self, session: Session
    ) -> None:
        await session.begin(serve_http, GET)
        session.opener.targets[0].arrive(broken())
        assert (await session.say(b"")).startswith(b"HTTP/1.1 502 ")

    async def test_an_answer_that_breaks_off_does_not_look_whole(self, session: Session) -> None:
        await session.begin(serve_http, GET)
        session.opener.targets[0].arrive(b"HTTP/1.1 200 OK\r\n\r\nhalf", broken())
        answer = await session.say(b"")
        assert b"half" in answer
        assert not answer.endswith(b"0\r\n\r\n")

    async def test_half_a_request_does_not_look_whole_to_the_target(self, session: Session) -> None:
        head = b"POST http://web.example/ HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\nhel"
        await session.begin(serve_http, head)
        (target,) = session.opener.targets
        await session.end()
        assert target.is_aborted
        assert not target.has_sent_end

    async def test_an_early_answer_reaches_the_program(self, session: Session) -> None:
        head = b"POST http://web.example/ HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\nhel"
        await session.begin(serve_http, head)
        (target,) = session.opener.targets
        target.write_error = broken()
        await session.say(b"l")
        target.arrive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        assert (await session.say(b"")).startswith(b"HTTP/1.1 413 ")
