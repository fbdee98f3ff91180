"""The admin plane on hypercorn over a Unix socket, asked by the real client."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from masque_relay.admin.address import UnixSocket
from masque_relay.admin.app import build_admin_app
from masque_relay.admin.client import AdminClient
from masque_relay.admin.limits import AdminLimits
from masque_relay.admin.listener import AdminListener
from tests.support.fake_operator import FakeOperator
from tests.support.h3_client import WAIT_S

TOKEN = "admin-token-of-the-tests"


@pytest.fixture
def operator() -> FakeOperator:
    return FakeOperator()


@pytest.fixture
async def served(operator: FakeOperator, tmp_path: Path) -> AsyncGenerator[AdminListener]:
    listener = AdminListener(UnixSocket(path=tmp_path / "admin.sock"))
    stop = asyncio.Event()
    app = build_admin_app(operator, token=TOKEN, limits=AdminLimits(), over_unix_socket=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.serve(app, AdminLimits(), stop))
        yield listener
        stop.set()


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    async with asyncio.timeout(WAIT_S):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_it_answers_on_its_socket_and_does_not_tell_its_software(
    served: AdminListener, tmp_path: Path
) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = await ask(tmp_path / "admin.sock", request)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"hypercorn" not in answer.lower()
    assert served.url == f"unix:{tmp_path}/admin.sock"


async def test_the_client_speaks_over_the_socket(
    served: AdminListener, operator: FakeOperator
) -> None:
    def ask() -> dict[str, object]:
        with AdminClient(served.url, TOKEN) as client:
            client.drain(deadline_s=1.5)
            return client.status()

    assert (await asyncio.to_thread(ask))["version"] == "1"
    assert operator.calls == [("drain", 1.5)]


async def test_a_slow_writer_of_a_body_is_given_up(tmp_path: Path, operator: FakeOperator) -> None:
    limits = AdminLimits(body_timeout_s=0.1)
    listener = AdminListener(UnixSocket(path=tmp_path / "admin.sock"))
    stop = asyncio.Event()
    app = build_admin_app(operator, token=TOKEN, limits=limits, over_unix_socket=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.serve(app, limits, stop))
        head = (
            "POST /api/v1/revoke HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            f"authorization: Bearer {TOKEN}\r\ncontent-length: 100\r\n\r\n{{"
        )
        answer = await ask(tmp_path / "admin.sock", head.encode())
        stop.set()
    assert answer.startswith(b"HTTP/1.1 408")
    assert operator.calls == []


async def test_the_end_waits_for_no_client_for_ever(tmp_path: Path, operator: FakeOperator) -> None:
    limits = AdminLimits(body_timeout_s=3_600)
    listener = AdminListener(UnixSocket(path=tmp_path / "admin.sock"))
    stop = asyncio.Event()
    app = build_admin_app(operator, token=TOKEN, limits=limits, over_unix_socket=True)
    head = (
        "POST /api/v1/revoke HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {TOKEN}\r\ncontent-length: 100\r\n\r\n{{"
    )
    async with asyncio.timeout(WAIT_S * 3), asyncio.TaskGroup() as group:
        group.create_task(listener.serve(app, limits, stop))
        _, writer = await asyncio.open_unix_connection(tmp_path / "admin.sock")
        writer.write(head.encode())
        await writer.drain()
        await asyncio.sleep(0.1)  # the request is running; too short a wait only tests less
        stop.set()
    writer.close()
