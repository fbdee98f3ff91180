"""Owns the service of one program's connection: SOCKS5 or HTTP in front, a target behind."""

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol, assert_never

from masque_relay.client.byte_stream import ByteStream
from masque_relay.client.direct import open_direct
from masque_relay.client.errors import ClientError
from masque_relay.client.forward import TunnelOpener
from masque_relay.client.http_proxy import ForwardExchange, HttpDoor, HttpRefused, HttpRequest
from masque_relay.client.limits import ProxyLimits
from masque_relay.client.proxy_answers import TargetFailed, answer_to, proxy_status_of
from masque_relay.client.socket_stream import SocketStream
from masque_relay.client.socks import (
    Login,
    SocksCommand,
    SocksHandshake,
    SocksReply,
    encode_reply,
)
from masque_relay.client.splice import Meter, splice
from masque_relay.client.split import SplitRules, Way
from masque_relay.client.udp_associate import UdpAssociation, UdpTotals
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import Clock, DatagramSocketFactory

_LINGER_S = 1.0  # for a program to read our refusal before what it still sends resets the socket
_LINGER_READS = 16


class ProxyOpener(TunnelOpener, Protocol):
    """What the local proxy needs of the relay; RelayLink is one."""

    async def open_tcp(self, target: Target) -> ByteStream:
        """Open a TCP connection, or raise ClientError."""
        ...


@dataclass(slots=True, kw_only=True)
class ProxyTotals:
    """What all programs did so far."""

    accepted: int = 0
    over_limit: int = 0
    """Connections, or associations, beyond the bound: closed, or refused, at once."""
    handshake_failed: int = 0
    """No SOCKS5 or HTTP, too slow, too long, or gone in the middle."""
    login_refused: int = 0
    proxied: int = 0
    direct: int = 0
    blocked: int = 0
    failed: int = 0
    """Targets that could not be reached, or that the relay refused."""
    broken_off: int = 0
    """Connections that one side reset."""
    idle_closed: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    udp: UdpTotals = field(default_factory=UdpTotals)


@dataclass(slots=True, kw_only=True)
class ProxyServices:
    """What sessions share."""

    opener: ProxyOpener
    rules: SplitRules
    login: Login | None
    limits: ProxyLimits
    clock: Clock
    socket_factory: DatagramSocketFactory
    totals: ProxyTotals
    association_count: int = 0


@dataclass(slots=True, kw_only=True)
class ProgramConnection:
    """One accepted connection."""

    stream: SocketStream
    program: Endpoint
    local: Endpoint
    """Our end of it: where the program can reach us."""
    meter: Meter
    is_association: bool = False
    """Silent for as long as its UDP port is wanted, so that no idle timeout concerns it."""


async def serve_socks(connection: ProgramConnection, services: ProxyServices) -> None:
    """Serve one SOCKS5 connection to its end (RFC 1928).

    Raises:
        ClientError: the program broke off.
        TimeoutError: it was slow with its handshake.
    """
    program = connection.stream
    handshake = SocksHandshake(login=services.login)
    async with asyncio.timeout(services.limits.handshake_timeout_s):
        while not handshake.is_over:
            data = await program.read()
            if not data:
                services.totals.handshake_failed += 1
                return
            if reply := handshake.feed(data):
                await program.write(reply)
    request = handshake.request
    if request is None:
        services.totals.login_refused += handshake.is_login_refused
        services.totals.handshake_failed += not handshake.is_login_refused
        await _linger(program)
    elif request.command is SocksCommand.UDP_ASSOCIATE:
        await _associate(connection, services)
    elif request.target is not None:
        try:
            target = await _open(request.target, services)
        except ClientError as error:
            await program.write(encode_reply(answer_to(error).reply))
            await _linger(program)
            return
        try:
            await program.write(encode_reply(SocksReply.SUCCEEDED))
            await _send_first(handshake.rest, target, connection.meter)
        except BaseException:
            target.abort()
            raise
        await _splice(connection, target, services)


async def serve_http(connection: ProgramConnection, services: ProxyServices) -> None:
    """Serve one connection of an HTTP proxy to its end (RFC 9110 section 9.3.6, RFC 9112).

    Raises:
        ClientError: the program broke off.
        TimeoutError: it was slow with its request head.
    """
    program = connection.stream
    door = HttpDoor(login=services.login, head_bytes=services.limits.head_bytes)
    served_count = 0
    try:
        while (request := await _next_request(door, connection, services)) is not None:
            if request.is_connect:
                await _connect(door, request, connection, services)
                return
            if not await _forward(door, request, connection, services):
                break
            served_count += 1
    except TimeoutError:
        if not served_count:
            raise  # later ones are but a connection that was kept and is not needed any more
    except HttpRefused as refused:
        if refused.status == 407:
            services.totals.login_refused += 1
        else:
            services.totals.handshake_failed += 1
        await program.write(door.answer(refused.status, refused.text, refused.fields))
        await _linger(program)
        return
    program.write_eof()


# -- SOCKS5 ----------------------------------------------------------------------------------------


async def _associate(connection: ProgramConnection, services: ProxyServices) -> None:
    program = connection.stream
    if services.association_count >= services.limits.associations:
        services.totals.over_limit += 1
        await program.write(encode_reply(SocksReply.GENERAL_FAILURE))
        await _linger(program)
        return
    try:
        socket = services.socket_factory(Endpoint(address=connection.local.address, port=0))
    except FlowError:
        await program.write(encode_reply(SocksReply.GENERAL_FAILURE))
        await _linger(program)
        return
    association = UdpAssociation(
        services.opener,
        socket,
        program=connection.program,
        rules=services.rules,
        limits=services.limits,
        clock=services.clock,
        totals=services.totals.udp,
    )
    services.association_count += 1
    connection.is_association = True
    try:
        await program.write(encode_reply(SocksReply.SUCCEEDED, association.bound))
        async with asyncio.TaskGroup() as group:
            carrying = group.create_task(association.run(), name="udp association")
            # RFC 1928 section 7: the association ends with the TCP connection
            await _wait_for_end(program)
            carrying.cancel()
    finally:
        association.close()
        services.association_count -= 1
    program.write_eof()


async def _wait_for_end(program: ByteStream) -> None:
    try:
        while await program.read():
            pass
    except ClientError:
        return


# -- HTTP ------------------------------------------------------------------------------------------


async def _next_request(
    door: HttpDoor, connection: ProgramConnection, services: ProxyServices
) -> HttpRequest | None:
    """Return the next request of a program; None once it has ended."""
    async with asyncio.timeout(services.limits.handshake_timeout_s):
        while True:
            try:
                request = door.next_request()
            except EOFError:
                return None
            if request is not None:
                return request
            door.feed(await connection.stream.read())


async def _connect(
    door: HttpDoor,
    request: HttpRequest,
    connection: ProgramConnection,
    services: ProxyServices,
) -> None:
    target = await _open_for_http(door, request, connection, services)
    if target is None:
        return
    answer, rest = door.accept_connect()
    try:
        await connection.stream.write(answer)
        await _send_first(rest, target, connection.meter)
    except BaseException:
        target.abort()
        raise
    await _splice(connection, target, services)


async def _forward(
    door: HttpDoor,
    request: HttpRequest,
    connection: ProgramConnection,
    services: ProxyServices,
) -> bool:
    """Carry one absolute-form request and its response; return whether more may follow."""
    target = await _open_for_http(door, request, connection, services)
    if target is None:
        return False
    exchange = ForwardExchange(door, request)
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(
                _send_request(exchange, connection, target), name="request body"
            )
            failure = await _receive_response(exchange, connection, target)
            sending.cancel()
    finally:
        target.abort()
        _count_bytes(connection, services)
    if failure is not None:
        raise failure
    return exchange.finish()


async def _send_request(
    exchange: ForwardExchange, connection: ProgramConnection, target: ByteStream
) -> None:
    """Send head and body; where that fails the response tells, or its end does."""
    meter = connection.meter
    try:
        chunk = exchange.begin() + exchange.take_body()
        while True:
            if chunk:
                await target.write(chunk)
                meter.sent(len(chunk))
            if not exchange.wants_body:
                return
            try:
                chunk = exchange.take_body(await connection.stream.read())
            except (ClientError, HttpRefused):
                target.abort()  # half a request must not look like a whole one
                return
    except (ClientError, HttpRefused):
        return  # a target may answer before it has read everything, and close


async def _receive_response(
    exchange: ForwardExchange, connection: ProgramConnection, target: ByteStream
) -> HttpRefused | ClientError | None:
    """Carry the response; return what broke it off."""
    try:
        while not exchange.is_answered:
            data = await target.read()
            if chunk := exchange.take_response(data):
                await connection.stream.write(chunk)
                connection.meter.received(len(chunk))
    except HttpRefused as refused:
        return refused
    except ClientError as error:
        return HttpRefused(HTTPStatus.BAD_GATEWAY, f"the connection broke off: {error.message}")
    return None


async def _open_for_http(
    door: HttpDoor,
    request: HttpRequest,
    connection: ProgramConnection,
    services: ProxyServices,
) -> ByteStream | None:
    """Open the target; where that fails, answer the program and return None."""
    try:
        return await _open(request.target, services)
    except ClientError as error:
        text = error.message if error.hint is None else f"{error.message}\nnext: {error.hint}"
        fields = [(b"Proxy-Status", proxy_status_of(error))]
        await connection.stream.write(door.answer(answer_to(error).status, text, fields))
        await _linger(connection.stream)
        return None


# -- both ------------------------------------------------------------------------------------------


async def _open(target: Target, services: ProxyServices) -> ByteStream:
    """Open a target the way that the split rules say.

    Raises:
        ClientError: it cannot be reached, or a rule blocks it.
    """
    totals = services.totals
    try:
        way = services.rules.way_of(target)
        match way:
            case Way.BLOCK:
                totals.blocked += 1
                raise TargetFailed(
                    f"a split rule blocks {target}",
                    error="http_request_denied",
                    hint="see --rule and --rules-file of `ghostctl proxy`",
                )
            case Way.DIRECT:
                timeout_s = services.limits.direct_connect_timeout_s
                stream: ByteStream = await open_direct(target, timeout_s=timeout_s)
                totals.direct += 1
            case Way.PROXY:
                stream = await services.opener.open_tcp(target)
                totals.proxied += 1
            case _:
                assert_never(way)
    except ClientError:
        totals.failed += 1
        raise
    return stream


async def _send_first(data: bytes, target: ByteStream, meter: Meter) -> None:
    """Send what a program sent before it had its answer."""
    if data:
        await target.write(data)
        meter.sent(len(data))


async def _splice(
    connection: ProgramConnection, target: ByteStream, services: ProxyServices
) -> None:
    try:
        if not await splice(connection.stream, target, connection.meter):
            services.totals.broken_off += 1
    finally:
        _count_bytes(connection, services)


def _count_bytes(connection: ProgramConnection, services: ProxyServices) -> None:
    meter = connection.meter
    services.totals.sent_bytes += meter.sent_bytes
    services.totals.received_bytes += meter.received_bytes
    meter.sent_bytes = meter.received_bytes = 0


async def _linger(program: ByteStream) -> None:
    """End our direction, and let the program read what we said before the socket goes."""
    program.write_eof()
    try:
        async with asyncio.timeout(_LINGER_S):
            for _ in range(_LINGER_READS):
                if not await program.read():
                    return
    except (TimeoutError, ClientError):
        return
