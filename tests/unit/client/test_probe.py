"""Owns the tests of hearing that a port is closed, on a fake flow."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from masque_relay.client import probe
from masque_relay.client.probe import ClosedPortProbe
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import DatagramSink, FlowError, FlowFault
from tests.support.http_fakes import settle

THERE = Endpoint(address=ip_address("192.0.2.1"), port=443)


class FakeFlow:
    def __init__(self, sink: DatagramSink) -> None:
        self.sink = sink
        self.sent: list[bytes] = []
        self.closed = False

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        self.sent += payloads
        return len(payloads)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def flows(monkeypatch: pytest.MonkeyPatch) -> list[FakeFlow]:
    opened: list[FakeFlow] = []

    def open_flow(endpoint: Endpoint, sink: DatagramSink, **_more: Any) -> FakeFlow:
        assert endpoint == THERE
        opened.append(FakeFlow(sink))
        return opened[-1]

    monkeypatch.setattr(probe.ConnectedUdpFlow, "open", open_flow)
    return opened


async def test_a_handshake_that_is_quick_sends_nothing(flows: list[FakeFlow]) -> None:
    ClosedPortProbe(THERE, lambda _error: None).close()
    await settle()
    assert flows[0].sent == []
    assert flows[0].closed


async def test_a_slow_handshake_sends_two_bytes_that_no_quic_endpoint_reads(
    flows: list[FakeFlow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "FIRST_DELAY_S", 0.0)
    monkeypatch.setattr(probe, "SECOND_DELAY_S", 0.0)
    ClosedPortProbe(THERE, lambda _error: None)
    await settle()
    # RFC 9000 section 17: the fixed bit (0x40) is 1 in every packet
    assert flows[0].sent == [b"\0", b"\0"]


async def test_an_error_is_told_once_and_ends_the_probe(flows: list[FakeFlow]) -> None:
    told: list[FlowError] = []
    ClosedPortProbe(THERE, told.append)
    error = FlowError(FlowFault.CONNECTION_REFUSED, "refused")
    asyncio.get_running_loop().call_soon(flows[0].sink.on_flow_error, error)
    await settle()
    assert told == [error]
    assert flows[0].closed


async def test_an_answer_ends_the_probe_quietly(flows: list[FakeFlow]) -> None:
    told: list[FlowError] = []
    ClosedPortProbe(THERE, told.append)
    flows[0].sink.on_batch([b"something"])
    assert told == []
    assert flows[0].closed
