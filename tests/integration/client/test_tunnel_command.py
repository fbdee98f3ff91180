"""Owns the tests of `ghostctl tunnel` against a real relay: traffic, sizes, refusals, restarts."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dnslib import DNSRecord

from tests.integration.client.commands import (
    TIMESCALE,
    WAIT_S,
    ghostctl,
    running_tunnel,
    way_to,
)
from tests.support.dns_server import run_dns_server
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.udp_echo import UdpEcho, run_udp_echo


@pytest.fixture
def echo() -> Iterator[UdpEcho]:
    with run_udp_echo() as running:
        yield running


def sender(door: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in door[0] else socket.AF_INET
    local = socket.socket(family, socket.SOCK_DGRAM)
    local.connect(door)
    local.settimeout(2.0 * TIMESCALE)
    return local


def ask(local: socket.socket, payload: bytes) -> bytes:
    """Send until an answer comes, as every UDP application does."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        local.send(payload)
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            answer = local.recv(65_536)
            if answer == payload:
                return answer
    raise AssertionError("no answer through the tunnel")


class TestTraffic:
    def test_a_dns_query_is_answered_through_the_relay(
        self, relay: ManagedRelay, tmp_path: Path
    ) -> None:
        with (
            run_dns_server({"host.example": "192.0.2.33"}) as port,
            running_tunnel(relay, tmp_path, [f"127.0.0.1:0=127.0.0.1:{port}"]) as tunnel,
        ):
            host, door = tunnel.door()
            for _ in range(3):
                answer = DNSRecord.question("host.example").send(host, door, timeout=WAIT_S)
                assert str(DNSRecord.parse(answer).a.rdata) == "192.0.2.33"

    def test_many_local_peers_get_their_own_answers(
        self, relay: ManagedRelay, tmp_path: Path, echo: UdpEcho
    ) -> None:
        with (
            running_tunnel(relay, tmp_path, [f":0=127.0.0.1:{echo.port}"]) as tunnel,
            contextlib.ExitStack() as stack,
        ):
            locals_ = [stack.enter_context(sender(tunnel.door())) for _ in range(40)]
            for number, local in enumerate(locals_):
                local.send(b"peer %d" % number)
            assert [ask(local, b"peer %d" % number) for number, local in enumerate(locals_)]
            assert len(echo.sources) == 40

    def test_several_forwards_share_one_command(
        self, relay: ManagedRelay, tmp_path: Path, echo: UdpEcho
    ) -> None:
        with run_udp_echo() as other:
            forwards = [f":0=127.0.0.1:{echo.port}", f"127.0.0.1:0=127.0.0.1:{other.port}"]
            with (
                running_tunnel(relay, tmp_path, forwards) as tunnel,
                sender(tunnel.door(0)) as first,
                sender(tunnel.door(1)) as second,
            ):
                assert ask(first, b"one") == b"one"
                assert ask(second, b"two") == b"two"
                assert echo.received_count > 0
                assert other.received_count > 0

    def test_status_comes_on_sigusr1_and_at_the_end(
        self, relay: ManagedRelay, tmp_path: Path, echo: UdpEcho
    ) -> None:
        with running_tunnel(relay, tmp_path, [f":0=127.0.0.1:{echo.port}"]) as tunnel:
            with sender(tunnel.door()) as local:
                ask(local, b"hello")
            tunnel.process.send_signal(signal.SIGUSR1)
            (status,) = tunnel.wait_for("status")
            assert status["sent"] >= 1
            assert status["received_bytes"] >= 5
            assert status["relay_up"] is True
            assert tunnel.end() == 0
            assert len(tunnel.events("status")) == 2


class TestSizes:
    @pytest.mark.parametrize("mtu", [1_420, 1_452])
    def test_what_fits_is_told_and_what_does_not_is_reported(
        self, relay: ManagedRelay, tmp_path: Path, echo: UdpEcho, mtu: int
    ) -> None:
        """A WireGuard interface's default MTU of 1420 makes datagrams of 1452 bytes."""
        with running_tunnel(relay, tmp_path, [f":0=127.0.0.1:{echo.port}"]) as tunnel:
            fits_bytes = tunnel.ready["max_payload_bytes"]
            assert 1_280 <= fits_bytes < 1_452
            with sender(tunnel.door()) as local:
                assert len(ask(local, bytes(fits_bytes))) == fits_bytes
                local.send(bytes(mtu))
                if mtu <= fits_bytes:
                    assert len(ask(local, bytes(mtu))) == mtu
                    return
                (report,) = tunnel.wait_for("oversize_dropped")
                assert report["dropped"] == 1
                assert report["largest_bytes"] == mtu
                assert f"MTU = {fits_bytes - 32}" in report["hint"]
                assert ask(local, b"goes on") == b"goes on"


class TestRefusals:
    def test_a_wrong_token_is_exit_code_3_with_a_hint(
        self, relay: ManagedRelay, tmp_path: Path
    ) -> None:
        token = tmp_path / "token"
        token.write_text("not.a.token")
        done = ghostctl(
            "tunnel", "udp", "--relay", relay.url, "--ca", str(relay.ca_file),
            "--token-file", str(token), ":0=127.0.0.1:9",
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert "401" in done.stderr
        assert "next: " in done.stderr
        assert "not.a.token" not in done.stderr + done.stdout

    def test_no_credential_is_exit_code_3_and_names_the_option(self, relay: ManagedRelay) -> None:
        done = ghostctl(
            "tunnel", "check", "--relay", relay.url, "--ca", str(relay.ca_file), "127.0.0.1:9"
        )
        assert done.returncode == 3
        assert "--token-file" in done.stderr

    def test_a_forbidden_target_is_exit_code_3_with_the_relays_reason(
        self, relay: ManagedRelay
    ) -> None:
        done = ghostctl("tunnel", "check", *way_to(relay), "169.254.169.254:80")
        assert done.returncode == 3
        assert "destination_ip_prohibited" in done.stderr

    def test_a_relay_that_is_away_is_exit_code_4(self, relay: ManagedRelay) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            done = ghostctl(
                "tunnel", "udp", "--relay", f"https://127.0.0.1:{silent.getsockname()[1]}",
                "--ca", str(relay.ca_file), "--connect-timeout", "0.5", ":0=127.0.0.1:9",
            )  # fmt: skip
        assert done.returncode == 4
        assert "nothing answers" in done.stderr
        assert "next: " in done.stderr

    def test_a_closed_port_is_noticed_before_the_deadline(self, relay: ManagedRelay) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            port = gone.getsockname()[1]
        done = ghostctl(
            "tunnel", "check", "--relay", f"https://127.0.0.1:{port}", "--ca", str(relay.ca_file),
            "--connect-timeout", "1000", "127.0.0.1:9",
        )  # fmt: skip
        assert done.returncode == 4
        assert "nothing listens" in done.stderr

    def test_a_certificate_of_another_ca_is_exit_code_4(self, relay: ManagedRelay) -> None:
        done = ghostctl("tunnel", "check", "--relay", relay.url, "127.0.0.1:9")
        assert done.returncode == 4
        assert "--ca" in done.stderr

    def test_a_relay_that_does_not_answer_a_request_is_exit_code_5(
        self, relay: ManagedRelay
    ) -> None:
        done = ghostctl("tunnel", "check", *way_to(relay), "--open-timeout", "0", "localhost:9")
        assert done.returncode == 5
        assert "did not answer" in done.stderr

    def test_a_port_in_use_is_exit_code_1(self, relay: ManagedRelay, echo: UdpEcho) -> None:
        done = ghostctl("tunnel", "udp", *way_to(relay), f":{echo.port}=127.0.0.1:9")
        assert done.returncode == 1
        assert str(echo.port) in done.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ["udp", "--relay", "https://127.0.0.1:1"],
            ["udp", "--relay", "https://127.0.0.1:1", "no-forward"],
            ["udp", "--relay", "http://127.0.0.1:1", ":0=127.0.0.1:9"],
            ["udp", "--relay", "https://127.0.0.1:1", "--client-cert", "x", ":0=127.0.0.1:9"],
            [
                "udp", "--relay", "https://127.0.0.1:1", "--token-file", "a", "--basic-file", "b",
                ":0=127.0.0.1:9",
            ],
            ["check", "--relay", "https://127.0.0.1:1", "--token-file", "/absent", "127.0.0.1:9"],
            ["check", "--relay", "https://127.0.0.1:1", "127.0.0.1"],
        ],
    )  # fmt: skip
    def test_bad_arguments_are_exit_code_2(self, arguments: list[str]) -> None:
        done = ghostctl("tunnel", *arguments)
        assert done.returncode == 2, done.stderr


def test_check_tells_what_fits(relay: ManagedRelay) -> None:
    done = ghostctl("tunnel", "check", *way_to(relay), "127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "bytes fit" in done.stdout
    assert "WireGuard" in done.stdout


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_relay_that_restarts_carries_traffic_again(
    tmp_path: Path, echo: UdpEcho, how: signal.Signals
) -> None:
    home = tmp_path / "relay"
    home.mkdir()
    with (
        managed_relay(home, expect_exit=None) as first,
        running_tunnel(first, tmp_path, [f":0=127.0.0.1:{echo.port}"]) as tunnel,
        sender(tunnel.door()) as local,
    ):
        assert ask(local, b"before") == b"before"
        first.process.send_signal(how)
        first.process.wait(WAIT_S)
        (home / "ready.json").unlink(missing_ok=True)
        with managed_relay(home, arguments=["--listen", f"127.0.0.1:{first.port}"]):
            assert ask(local, b"after") == b"after"
            assert tunnel.wait_for("relay_away")[0]["retry_in_s"] > 0
            assert tunnel.wait_for("relay_connected")


@pytest.mark.parametrize("http", ["3", "2", "1.1"])
def test_a_tunnel_runs_on_the_http_version_that_was_asked_for(
    relay: ManagedRelay, echo: UdpEcho, tmp_path: Path, http: str
) -> None:
    forwards = ["--http", http, f"127.0.0.1:0=127.0.0.1:{echo.port}"]
    with running_tunnel(relay, tmp_path, forwards) as tunnel:
        assert tunnel.ready["reliable"] is (http != "3")
        assert tunnel.ready["http"] == http
        with sender(tunnel.door()) as local:
            assert ask(local, b"over " + http.encode()) == b"over " + http.encode()


def test_an_http_version_that_there_is_not_is_a_usage_error(relay: ManagedRelay) -> None:
    done = ghostctl("tunnel", "check", *way_to(relay), "--http", "4", "127.0.0.1:9")
    assert done.returncode == 2
    assert "--http" in done.stderr
