"""Owns the tests of failed handshakes, and of the order in which addresses are tried."""

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from masque_relay.client.address import RelayAddress
from masque_relay.client.dial import connect_any, failure_from, relay_endpoints
from masque_relay.client.errors import ClientError, RelayUnreachable, RelayUntrusted
from masque_relay.client.limits import ClientLimits
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.quic.settings import ClientTls, ConnectFailed
from tests.support.client_fakes import FakeClock

RELAY = RelayAddress.parse("https://relay.test:4433")
FIRST, SECOND = (Endpoint(address=ip_address(host), port=4433) for host in ("::1", "127.0.0.1"))


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (None, RelayUnreachable, "UDP"),
        (0x0, RelayUnreachable, "UDP"),
        (0x2, RelayUnreachable, "draining or full"),
        (0xA, RelayUnreachable, "--relay"),
        (0x100 + 42, RelayUntrusted, "--ca"),
        (0x100 + 48, RelayUntrusted, "--ca"),
        (0x100 + 112, RelayUntrusted, "name"),
        (0x100 + 116, RelayUntrusted, "--client-cert"),
        (0x100 + 120, RelayUntrusted, "HTTP/3"),
    ],
)
def test_a_failed_handshake_says_what_to_do(
    code: int | None, kind: type[ClientError], hint: str
) -> None:
    failure = failure_from(ConnectFailed(code, "because"), RELAY, [FIRST])
    assert type(failure) is kind
    assert failure.hint is not None
    assert hint in failure.hint
    assert "relay.test" in failure.message


class FakeProbe:
    """A ClosedPortProbe that hears what the test says, in the next turn of the loop."""

    heard: FlowError | None = None
    open_count = 0

    def __init__(self, destination: Endpoint, on_error: Callable[[FlowError], None]) -> None:
        del destination
        FakeProbe.open_count += 1
        if FakeProbe.heard is not None:
            asyncio.get_running_loop().call_soon(on_error, FakeProbe.heard)

    def close(self) -> None:
        FakeProbe.open_count -= 1


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("masque_relay.client.dial.ClosedPortProbe", FakeProbe)
    FakeProbe.heard = None
    yield
    assert FakeProbe.open_count == 0


class SilentEndpoint:
    """A QUIC endpoint whose handshakes hear nothing."""

    async def connect(self, destination: Endpoint, **_more: Any) -> None:
        del destination
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (FlowFault.CONNECTION_REFUSED, "nothing listens on UDP 127.0.0.1:4433"),
        (FlowFault.DESTINATION_UNAVAILABLE, "no way to 127.0.0.1:4433: host unreachable"),
    ],
)
async def test_a_port_that_the_network_says_is_closed_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, fault: FlowFault, message: str
) -> None:
    FakeProbe.heard = FlowError(fault, "host unreachable")
    with pytest.raises(RelayUnreachable, match=message) as failed:
        await dial(SilentEndpoint(), monkeypatch)
    assert failed.value.hint


class ScriptedEndpoint:
    """A QUIC endpoint of which each connect has a planned outcome."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.tried: list[tuple[Endpoint, float]] = []

    async def connect(self, destination: Endpoint, *, timeout_s: float, **_more: Any) -> None:
        self.tried.append((destination, timeout_s))
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome


async def dial(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    async def both(_address: RelayAddress, _limits: ClientLimits) -> tuple[Endpoint, ...]:
        return FIRST, SECOND

    monkeypatch.setattr("masque_relay.client.dial.relay_endpoints", both)
    return await connect_any(
        endpoint,
        RELAY,
        application=lambda _quic: None,  # type: ignore[arg-type, return-value]
        tls=ClientTls(),
        limits=ClientLimits(connect_timeout_s=10.0),
        clock=FakeClock(),
    )


async def test_a_silent_address_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = ScriptedEndpoint(ConnectFailed(None, ""), None)
    assert await dial(endpoint, monkeypatch) == SECOND
    assert endpoint.tried == [(FIRST, 5.0), (SECOND, 10.0)]


async def test_a_family_that_this_host_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    no_ipv6 = FlowError(FlowFault.DESTINATION_IP_UNROUTABLE, "no IPv6")
    assert await dial(ScriptedEndpoint(no_ipv6, None), monkeypatch) == SECOND


async def test_an_untrusted_relay_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = ScriptedEndpoint(ConnectFailed(0x100 + 48, "unknown CA"))
    with pytest.raises(RelayUntrusted, match="unknown CA"):
        await dial(endpoint, monkeypatch)
    assert len(endpoint.tried) == 1


async def test_the_last_failure_is_told_when_none_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = ScriptedEndpoint(ConnectFailed(None, ""), ConnectFailed(0x2, "full"))
    with pytest.raises(RelayUnreachable, match="full"):
        await dial(endpoint, monkeypatch)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_literal_address_is_not_looked_up(host: str) -> None:
    endpoints = await relay_endpoints(RelayAddress(host=host, port=1), ClientLimits())
    assert endpoints == (Endpoint(address=ip_address(host), port=1),)
