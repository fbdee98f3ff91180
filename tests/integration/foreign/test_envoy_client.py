"""Tests of Envoy as a foreign CONNECT-UDP client: HTTP/3 datagrams, authority without a port."""

import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from dnslib import DNSRecord

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import fetch
from tests.support.envoy import (
    client_configuration,
    exchange,
    run_envoy,
    tcp_client_configuration,
)
from tests.support.relay_process import RunningRelay
from tests.support.udp_echo import run_udp_echo

REPLY_DEADLINE_S = 10.0


@contextmanager
def envoy_to(
    relay: RunningRelay, port: int, directory: Path, *, token: str | None = None, http: str = "3"
) -> Generator[tuple[str, int]]:
    """A local UDP port that Envoy tunnels through the relay to a port on loopback."""
    configuration = client_configuration(
        proxy=relay.address,
        proxy_ca_file=relay.ca_file,
        target=("127.0.0.1", port),
        headers=[("proxy-authorization", f"Bearer {token or relay.token}")],
        http=http,
    )
    with run_envoy(configuration, directory / "envoy-client") as address:
        yield address


@pytest.mark.interop("Envoy", "CONNECT-UDP", "{http}")
@pytest.mark.parametrize("http", ["3", "2", "1.1"])
def test_a_dns_question_goes_through_envoy_and_the_relay(
    relay: RunningRelay, dns_port: int, directory: Path, timescale: float, http: str
) -> None:
    with envoy_to(relay, dns_port, directory, http=http) as address:
        question = DNSRecord.question("relay-test.example")
        answer = exchange(address, question.pack(), deadline_s=REPLY_DEADLINE_S * timescale)
    assert answer is not None
    reply = DNSRecord.parse(answer)
    assert reply.header.id == question.header.id
    assert str(reply.a.rdata) == "192.0.2.77"


@pytest.mark.interop("Envoy", "CONNECT-UDP", "{http}")
@pytest.mark.parametrize("http", ["3", "2", "1.1"])
def test_an_http3_page_goes_through_envoy_and_the_relay(
    relay: RunningRelay, site: HttpSite, directory: Path, http: str
) -> None:
    with envoy_to(relay, site.port, directory, http=http) as (host, port):
        fetched = fetch(f"https://{host}:{port}/", ca_file=site.certificate.ca_file)
    assert fetched.body == GREETING, fetched.trace


@pytest.mark.interop("Envoy", "CONNECT", "{http}")
@pytest.mark.parametrize("http", ["3", "2", "1.1"])
def test_a_page_over_tcp_goes_through_envoy_and_the_relay(
    relay: RunningRelay, site: HttpSite, directory: Path, http: str
) -> None:
    configuration = tcp_client_configuration(
        proxy=relay.address,
        proxy_ca_file=relay.ca_file,
        target=("127.0.0.1", site.port),
        headers=[("proxy-authorization", f"Bearer {relay.token}")],
        http=http,
    )
    content = bytes(range(32, 127)) * 20_000
    (site.root / "envoy-tcp.txt").write_bytes(content)
    context = ssl.create_default_context(cafile=str(site.certificate.ca_file))
    with (
        run_envoy(configuration, directory / "envoy-client") as (host, port),
        httpx.Client(verify=context, trust_env=False) as client,
    ):
        answer = client.get(
            f"https://{host}:{port}/envoy-tcp.txt",
            headers={"Host": f"127.0.0.1:{site.port}"},
            timeout=REPLY_DEADLINE_S,
        )
    assert answer.content == content


def test_a_large_page_goes_through_envoy_and_the_relay(
    relay: RunningRelay, site: HttpSite, directory: Path
) -> None:
    """A QUIC connection inside, with its own congestion control, over two sets of datagrams."""
    content = bytes(range(32, 127)) * 20_000
    (site.root / "envoy.txt").write_bytes(content)
    with envoy_to(relay, site.port, directory) as (host, port):
        url = f"https://{host}:{port}/envoy.txt"
        fetched = fetch(url, ca_file=site.certificate.ca_file, arguments=["--timeout-s", "40"])
    assert fetched.body_bytes == len(content), fetched.trace[-2000:]
    assert fetched.body.encode() == content


def test_every_local_peer_of_envoy_gets_its_own_tunnel(
    relay: RunningRelay, directory: Path, timescale: float
) -> None:
    with run_udp_echo() as echo, envoy_to(relay, echo.port, directory) as address:
        for number in range(8):
            payload = f"peer {number}".encode()
            assert exchange(address, payload, deadline_s=REPLY_DEADLINE_S * timescale) == payload
        assert len(echo.sources) == 8


@pytest.mark.parametrize("payload_bytes", [1, 64, 1200, 1252])
def test_datagrams_of_every_size_that_quic_needs_pass(
    relay: RunningRelay, directory: Path, payload_bytes: int, timescale: float
) -> None:
    payload = bytes(range(256)) * 5
    with run_udp_echo() as echo, envoy_to(relay, echo.port, directory) as address:
        answer = exchange(address, payload[:payload_bytes], deadline_s=REPLY_DEADLINE_S * timescale)
    assert answer == payload[:payload_bytes]


def test_an_oversize_answer_is_dropped_and_the_tunnel_lives(
    relay: RunningRelay, directory: Path, timescale: float
) -> None:
    """Envoy takes no datagram capsules on HTTP/3; what fits no QUIC datagram must be lost alone."""
    deadline_s = REPLY_DEADLINE_S * timescale
    with (
        run_udp_echo() as echo,
        envoy_to(relay, echo.port, directory) as address,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(deadline_s)
        client.connect(address)
        client.send(b"before")
        assert client.recv(65_536) == b"before"
        client.send(echo.ask_for(9000))
        client.send(b"after")
        assert client.recv(65_536) == b"after"
    metrics = relay.metrics()
    oversize = {name: value for name, value in metrics.items() if "oversize" in name}
    assert any(value >= 1 for value in oversize.values()), oversize


def test_envoy_with_a_bad_token_carries_nothing(
    relay: RunningRelay, directory: Path, timescale: float
) -> None:
    with (
        run_udp_echo() as echo,
        envoy_to(relay, echo.port, directory, token="not.a.token") as address,
    ):
        assert exchange(address, b"hello", deadline_s=1.5 * timescale) is None
        assert echo.received_count == 0
