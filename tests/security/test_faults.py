"""Bugs put in on purpose: each costs the tunnel in which it sits, and its neighbour works on."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from masque_relay.control.gate import RelayGate
from masque_relay.control.leases import LeaseTable
from masque_relay.dataplane.inproc import InprocDataplane
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow
from masque_relay.http.gate_middleware import GateMiddleware
from masque_relay.http.stream import HttpStream
from masque_relay.quic.application import Headers
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from tests.support.h3_client import H3Client
from tests.support.relay import ECHO_HOST, running_relay, udp_echo


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a bug put in by a test")


async def async_boom(*_: Any, **__: Any) -> Any:
    boom()


FAULTS: list[tuple[type, str, Callable[..., Any]]] = [
    (GateMiddleware, "__call__", async_boom),
    (RelayGate, "admit", async_boom),
    (RelayGate, "admit_address", boom),
    (LeaseTable, "forget", boom),
    (InprocDataplane, "open_udp", boom),
    (ConnectedUdpFlow, "send_batch", boom),
    (ConnectUdpSession, "attach", boom),
    (ConnectUdpSession, "on_datagrams", boom),
    (ConnectUdpSession, "on_batch", boom),
    (HttpStream, "application_failed", boom),
    (HttpStream, "application_returned", boom),
]


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    FAULTS,
    ids=[f"{owner.__name__}.{name}" for owner, name, _ in FAULTS],
)
async def test_a_bug_ends_its_own_tunnel_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    fault: Callable[..., Any],
) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        neighbour, victim = await relay.connect(), await relay.connect()
        tunnel, answer = await neighbour.request(relay.connect_udp(ECHO_HOST, port))
        assert answer.status == 200
        with monkeypatch.context() as broken:
            broken.setattr(owner, name, fault)
            await use_and_leave(victim, relay.connect_udp(ECHO_HOST, port))
            await victim.until(lambda: victim.lost or relay.front_end.request_count <= 1)
        await neighbour.echo(tunnel, b"after")
        assert neighbour.lost is None
        again = await relay.connect()
        assert (await again.request(relay.connect_udp(ECHO_HOST, port)))[1].status == 200


async def use_and_leave(client: H3Client, head: Headers) -> None:
    """Open a tunnel as far as it goes, send, hear an echo if there is one, end it."""
    stream_id = client.send(head)
    exchange = client.exchanges[stream_id]
    await client.until(lambda: client.lost or exchange.reset is not None or exchange.status)
    if client.lost is None and exchange.status == 200:
        client.session.send_datagrams(stream_id, b"\0", [b"x"] * 3)
        with suppress(TimeoutError):
            await client.until(lambda: client.lost or exchange.datagrams, timeout_s=0.5)
        client.session.send_data(stream_id, b"", end_stream=True)
