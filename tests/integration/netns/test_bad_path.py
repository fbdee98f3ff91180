"""Tests of a tunnel across a bad network: loss, reordering, duplication, a small MTU."""

import socket
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.envoy import client_configuration, run_envoy
from tests.support.impairment import ImpairedPath, Impairment, run_impaired_path
from tests.support.netns import NamespaceEnd
from tests.support.processes import START_DEADLINE_S, run_process, wait_until
from tests.support.relay_process import RunningRelay, run_changed_relay, use_certificate
from tests.support.site_certificate import write_site_certificate
from tests.support.udp_echo import UdpEcho, run_udp_echo

Ends = tuple[NamespaceEnd, NamespaceEnd]
LOCAL_PORT = 5300  # nobody else lives in the client's namespace
DATAGRAM_COUNT = 1500
PACE_S = 0.002
OUTAGE_S = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A client in one namespace, a relay and an echo in the other, a bad path between."""

    client: socket.socket
    """In the client's namespace, connected to the local end of the tunnel."""
    relay: RunningRelay
    far_end: NamespaceEnd
    echo: UdpEcho
    path: ImpairedPath

    def metrics(self) -> dict[str, float]:
        return self.far_end.call(self.relay.metrics)


Client = Callable[[NamespaceEnd, RunningRelay, int, Path], AbstractContextManager[object]]


@contextmanager
def ghostctl(end: NamespaceEnd, relay: RunningRelay, port: int, directory: Path) -> Generator[None]:
    """Our own client."""
    command = [*end.prefix, sys.executable, "-m", "masque_relay.cli.main", "tunnel", "udp"]
    command += ["--http", "3"]  # these paths are QUIC's; on a slow one TCP might win
    command += ["--relay", f"https://{relay.host}:{relay.port}", "--ca", str(relay.ca_file)]
    command += ["--token-file", str(relay.token_file)]
    command += [f"127.0.0.1:{LOCAL_PORT}=127.0.0.1:{port}"]
    with run_process(command, log=directory / "tunnel.log", ready=lambda: True):
        yield


@contextmanager
def envoy(end: NamespaceEnd, relay: RunningRelay, port: int, directory: Path) -> Generator[None]:
    """A foreign client; its packets stay below 1280 bytes with their IP header."""
    configuration = client_configuration(
        proxy=relay.address,
        proxy_ca_file=relay.ca_file,
        target=("127.0.0.1", port),
        headers=[("proxy-authorization", f"Bearer {relay.token}")],
        listen=("127.0.0.1", LOCAL_PORT),
        max_packet_bytes=1250,
    )
    with run_envoy(configuration, directory / "envoy", prefix=end.prefix, call=end.call):
        yield


both_clients = pytest.mark.parametrize("client", [ghostctl, envoy])


@contextmanager
def stage(ends: Ends, client: Client, impairment: Impairment, directory: Path) -> Generator[Stage]:
    client_end, far_end = ends
    certificate = write_site_certificate(directory / "certificate", addresses=(far_end.address,))
    with (
        run_impaired_path(client_end.device, far_end.device, impairment) as path,
        run_udp_echo(opened_by=far_end.call) as echo,
        run_changed_relay(
            directory / "relay",
            use_certificate(certificate),
            listen=f"{far_end.address}:0",
            prefix=far_end.prefix,
        ) as relay,
        client(client_end, relay, echo.port, directory),
        client_end.call(lambda: socket.socket(type=socket.SOCK_DGRAM)) as local,
    ):
        local.settimeout(0.2)
        local.connect(("127.0.0.1", LOCAL_PORT))
        wait_until(lambda: _echoes(local), deadline_s=START_DEADLINE_S, what="the first echo")
        yield Stage(client=local, relay=relay, far_end=far_end, echo=echo, path=path)


def _echoes(client: socket.socket) -> bool | None:
    try:
        client.send(b"ready?")
        return client.recv(2048) == b"ready?" or None
    except (TimeoutError, ConnectionRefusedError):
        return None


def drain(client: socket.socket, *, quiet_s: float) -> list[bytes]:
    """Take what comes until nothing has come for a while."""
    client.settimeout(quiet_s)
    received: list[bytes] = []
    try:
        while True:
            received.append(client.recv(65_536))
    except TimeoutError:
        return received


def grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after[name] - before[name]


@both_clients
def test_a_tunnel_survives_loss_reordering_and_duplication(
    ends: Ends, client: Client, tmp_path: Path, timescale: float
) -> None:
    impairment = Impairment(
        loss=0.02,
        reorder=0.05,
        duplicate=0.02,
        delay_s=0.010,
        # Within one round trip: what comes later than that Envoy takes for a duplicate and drops.
        reorder_delay_s=0.004,
        seed=1,
    )
    with stage(ends, client, impairment, tmp_path) as on:
        drain(on.client, quiet_s=0.5 * timescale)
        before, echoed_before = on.metrics(), on.echo.received_count
        sent = [f"{number:08}".encode() * 25 for number in range(DATAGRAM_COUNT)]
        received: list[bytes] = []
        for payload in sent:
            on.client.send(payload)
            on.client.settimeout(PACE_S)
            try:
                received.append(on.client.recv(2048))
            except TimeoutError:
                continue
        received += drain(on.client, quiet_s=1.0 * timescale)
        after, echoed = on.metrics(), on.echo.received_count - echoed_before

    assert set(received) <= set(sent)
    assert len(received) == len(set(received)), "QUIC lets no duplicate through"
    # Two lossy crossings: 0.98 * 0.98 = 0.96; a packet may carry several datagrams, so the band is
    # wide. Above it the path was not lossy, below it the tunnel lost more than the path.
    assert 0.92 <= len(received) / DATAGRAM_COUNT <= 0.99
    assert on.path.forward.counts.lost > 0
    assert on.path.forward.counts.duplicated > 0
    assert on.path.forward.counts.reordered > 0

    # The relay's books: nothing is lost on loopback behind it, so they must match the echo's.
    up = grown(before, after, 'ghostwire_relay_tunnel_datagrams_total{direction="up"}')
    down = grown(before, after, 'ghostwire_relay_tunnel_datagrams_total{direction="down"}')
    assert up == echoed
    assert down == echoed
    assert len(received) <= down


@both_clients
def test_a_small_path_mtu_lets_the_handshake_and_what_fits_pass(
    ends: Ends, client: Client, tmp_path: Path, timescale: float
) -> None:
    with stage(ends, client, Impairment(mtu_bytes=1280), tmp_path) as on:
        drain(on.client, quiet_s=0.5 * timescale)
        before = on.metrics()
        on.client.settimeout(5 * timescale)
        for payload_bytes in (1, 512, 1100):
            on.client.send(bytes(payload_bytes))
            assert on.client.recv(2048) == bytes(payload_bytes)
        # Too large on the way back: lost alone, counted.
        on.client.send(on.echo.ask_for(1400))
        # Too large on the way there: the client's loss.
        on.client.send(bytes(1400))
        on.client.send(b"after")
        assert on.client.recv(2048) == b"after"
        dropped = wait_until(
            lambda: _oversize(before, on.metrics()) or None,
            deadline_s=5 * timescale,
            what="the counter of oversize datagrams",
        )
        assert dropped == 1
        assert on.path.forward.counts.largest_bytes <= 1280
        assert on.path.backward.counts.largest_bytes <= 1280


def _oversize(before: dict[str, float], after: dict[str, float]) -> float:
    return grown(
        before, after, 'ghostwire_relay_tunnel_datagrams_dropped_total{cause="oversize_down"}'
    )


@both_clients
def test_a_tunnel_outlives_a_short_outage(
    ends: Ends, client: Client, tmp_path: Path, timescale: float
) -> None:
    with stage(ends, client, Impairment(), tmp_path) as on:
        drain(on.client, quiet_s=0.5 * timescale)
        connections = "ghostwire_relay_quic_connections_opened_total"
        before = on.metrics()[connections]
        on.path.cut()
        on.client.send(b"lost")
        time.sleep(OUTAGE_S)
        on.path.mend()
        assert wait_until(
            lambda: _echoes(on.client), deadline_s=20 * timescale, what="an echo after the outage"
        )
        assert on.metrics()[connections] == before


@both_clients
def test_a_tunnel_goes_on_when_a_nat_forgets_the_client(
    ends: Ends, client: Client, tmp_path: Path, timescale: float
) -> None:
    with stage(ends, client, Impairment(delay_s=0.002), tmp_path) as on:
        drain(on.client, quiet_s=0.5 * timescale)
        before, echoed_before = on.metrics(), on.echo.received_count
        on.path.rebind()
        on.client.settimeout(5 * timescale)
        for number in range(20):
            payload = f"after {number}".encode()
            on.client.send(payload)
            assert on.client.recv(2048) == payload
        after = on.metrics()
        assert on.echo.received_count - echoed_before == 20
        assert grown(before, after, "ghostwire_relay_quic_connections_opened_total") == 0
        assert grown(before, after, "ghostwire_relay_quic_migrations_total") == 1
