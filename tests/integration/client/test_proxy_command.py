"""Owns the tests of `ghostctl proxy` against a real relay: curl, UDP, ends, refusals, restarts."""

import contextlib
import hashlib
import http.server
import json
import os
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dnslib import DNSRecord

from masque_relay.client.address import parse_target
from masque_relay.client.socks import decode_udp_datagram, encode_udp_header
from tests.integration.client.commands import WAIT_S, ghostctl, way_to
from tests.support.dns_server import run_dns_server
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import GHOSTCTL, start_process

BIG = os.urandom(1 << 20) * 12


class Pages(http.server.BaseHTTPRequestHandler):
    """/big is 12 MiB; a POST is answered with its body's hash; other paths with what was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/big":
            body = BIG
        else:
            body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self._answer(body)

    def do_POST(self) -> None:
        received = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(hashlib.sha256(received).hexdigest().encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        del format, args


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A real HTTP server; its HOST:PORT."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def tcp_server(serve: Callable[[socket.socket], None]) -> Generator[tuple[str, int]]:
    """Serve TCP connections with a function, each in a thread."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                serve(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield ("127.0.0.1", server.server_address[1])
        server.shutdown()
        thread.join()


@dataclass(kw_only=True)
class RunningProxy:
    """A running `ghostctl proxy --json`."""

    process: subprocess.Popen[bytes]
    socks: str
    http: str
    output: Path

    def address(self, which: str) -> tuple[str, int]:
        host, _, port = which.rpartition(":")
        return host.strip("[]"), int(port)

    def status(self) -> dict[str, Any]:
        """Ask for a status line and return it."""
        count = len(self._events("status"))
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + WAIT_S
        while len(events := self._events("status")) <= count:
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)
        return events[-1]

    def wait_for(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until its status is as wanted."""
        deadline = time.monotonic() + WAIT_S
        while not holds(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        return status

    def _events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]


@contextmanager
def running_proxy(relay: ManagedRelay, directory: Path, *arguments: str) -> Generator[RunningProxy]:
    """Run a proxy on free ports while the block runs; it must end with 0."""
    directory.mkdir(exist_ok=True)
    ready_file, output = directory / "proxy.json", directory / "proxy.out"
    ready_file.unlink(missing_ok=True)
    command = [
        *GHOSTCTL, "proxy", *way_to(relay), "--listen", "127.0.0.1:0",
        "--http-listen", "127.0.0.1:0", "--json", "--ready-file", str(ready_file), *arguments,
    ]  # fmt: skip
    with start_process(command, log=output, ready=lambda: ready_file.exists() or None) as (
        process,
        _,
    ):
        ready = json.loads(ready_file.read_text())
        yield RunningProxy(process=process, socks=ready["socks"], http=ready["http"], output=output)
        process.terminate()
        assert process.wait(WAIT_S) == 0, output.read_text()
        assert "bug" not in output.read_text()


@pytest.fixture(scope="module")
def proxy(relay: ManagedRelay, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningProxy]:
    """One proxy for the tests that need nothing special; 127.0.0.2 goes around the relay."""
    with running_proxy(
        relay,
        tmp_path_factory.mktemp("proxy"),
        "--rule",
        "direct:127.0.0.2",
        "--rule",
        "block:*:25",
    ) as running:
        yield running


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the system's curl."""
    return subprocess.run(
        ["curl", "-sS", "--noproxy", "", "-m", str(WAIT_S), *arguments],
        capture_output=True, check=False, timeout=2 * WAIT_S,
    )  # fmt: skip


def socks_connect(proxy: RunningProxy, target: tuple[str, int]) -> socket.socket:
    """Connect to a target through SOCKS5; return the open connection."""
    connection = socket.create_connection(proxy.address(proxy.socks), WAIT_S)
    packed = socket.inet_aton(target[0]) + target[1].to_bytes(2, "big")
    connection.sendall(b"\x05\x01\x00" + b"\x05\x01\x00\x01" + packed)
    received = b""
    while len(received) < 12:
        chunk = connection.recv(12 - len(received))
        assert chunk, "the proxy closed the connection"
        received += chunk
    assert received[:4] == b"\x05\x00\x05\x00"
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


needs_curl = pytest.mark.needs_tool("curl")


@needs_curl
class TestCurl:
    @pytest.mark.parametrize("scheme", ["socks5h", "http", "connect"])
    def test_a_large_page_arrives_whole(self, proxy: RunningProxy, web: str, scheme: str) -> None:
        way = {
            "socks5h": ["-x", f"socks5h://{proxy.socks}"],
            "http": ["-x", f"http://{proxy.http}"],
            "connect": ["-p", "-x", f"http://{proxy.http}"],
        }[scheme]
        done = curl(*way, f"http://{web}/big")
        assert done.returncode == 0, done.stderr
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(BIG).digest()

    @pytest.mark.parametrize("scheme", ["socks5h", "http"])
    def test_a_large_body_arrives_whole(
        self, proxy: RunningProxy, web: str, scheme: str, tmp_path: Path
    ) -> None:
        (tmp_path / "body").write_bytes(BIG)
        where = proxy.socks if scheme == "socks5h" else proxy.http
        done = curl(
            "-x", f"{scheme}://{where}", "--data-binary", f"@{tmp_path / 'body'}", f"http://{web}/"
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == hashlib.sha256(BIG).hexdigest()

    def test_several_requests_share_one_connection_to_the_http_proxy(
        self, proxy: RunningProxy, web: str
    ) -> None:
        before = proxy.status()["accepted"]
        done = curl("-x", f"http://{proxy.http}", f"http://{web}/one", f"http://{web}/two?q=1")
        assert done.returncode == 0, done.stderr
        assert b'"/one"' in done.stdout
        assert b'"/two?q=1"' in done.stdout
        assert proxy.status()["accepted"] == before + 1

    def test_the_target_sees_no_field_that_is_for_the_proxy(
        self, proxy: RunningProxy, web: str
    ) -> None:
        done = curl(
            "-x", f"http://{proxy.http}", "-H", "Proxy-Authorization: Basic c2VjcmV0",
            "-H", "Connection: X-Private", "-H", "X-Private: 1", f"http://{web}/",
        )  # fmt: skip
        fields = {name.lower() for name in json.loads(done.stdout)["headers"]}
        assert "via" in fields
        assert not fields & {"proxy-authorization", "proxy-connection", "x-private"}

    def test_a_name_goes_to_the_relay_as_a_name(self, proxy: RunningProxy, web: str) -> None:
        port = web.rpartition(":")[2]
        done = curl("-x", f"socks5h://{proxy.socks}", f"http://localhost:{port}/")
        assert json.loads(done.stdout)["headers"]["Host"] == f"localhost:{port}"

    def test_a_rule_sends_a_target_around_the_relay(self, proxy: RunningProxy) -> None:
        before = proxy.status()
        with http.server.ThreadingHTTPServer(("127.0.0.2", 0), Pages) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            target = f"http://127.0.0.2:{server.server_address[1]}/"
            done = curl("-x", f"socks5h://{proxy.socks}", target)
            thread.join()
        assert done.returncode == 0, done.stderr
        after = proxy.status()
        assert after["direct"] == before["direct"] + 1
        assert after["proxied"] == before["proxied"]


@needs_curl
class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "reply", "status", "error"),
        [
            ("127.0.0.1:1", 5, "502", "connection_refused"),
            ("10.255.255.1:80", 2, "403", "destination_ip_prohibited"),
            ("nosuch.invalid:80", 4, "502", "dns_error"),
            ("127.0.0.1:25", 2, "403", "http_request_denied"),
            ("127.0.0.2:1", 5, "502", "connection_refused"),
        ],
    )
    def test_a_program_hears_why(
        self, proxy: RunningProxy, target: str, reply: int, status: str, error: str
    ) -> None:
        socks = curl("-x", f"socks5h://{proxy.socks}", f"http://{target}/")
        assert socks.returncode == 97
        assert f"({reply})" in socks.stderr.decode()
        for more in ([], ["-p"]):
            web = curl(
                *more, "-o", "/dev/null", "-D", "-", "-x", f"http://{proxy.http}",
                f"http://{target}/",
            )  # fmt: skip
            head = web.stdout.decode()
            assert head.startswith(f"HTTP/1.1 {status} "), head
            assert f"ghostctl; error={error}" in head

    def test_a_request_for_the_proxy_itself_is_refused(self, proxy: RunningProxy) -> None:
        done = curl("-i", f"http://{proxy.http}/")
        assert done.stdout.startswith(b"HTTP/1.1 400 ")
        assert b"this is a proxy" in done.stdout


@needs_curl
def test_only_who_knows_the_password_is_served(
    relay: ManagedRelay, tmp_path: Path, web: str
) -> None:
    (tmp_path / "user").write_text("ann:s3cret\n")
    with running_proxy(relay, tmp_path, "--user-file", str(tmp_path / "user")) as proxy:
        for scheme, where in (("socks5h", proxy.socks), ("http", proxy.http)):
            good = curl("-x", f"{scheme}://ann:s3cret@{where}", f"http://{web}/")
            assert good.returncode == 0, good.stderr
            assert b'"path"' in good.stdout
            for way in (f"{scheme}://ann:wrong@{where}", f"{scheme}://{where}"):
                bad = curl("-x", way, f"http://{web}/")
                assert b'"path"' not in bad.stdout
        assert proxy.status()["login_refused"] == 4


class TestEnds:
    def test_half_close_goes_to_the_target_and_its_answer_comes_back(
        self, proxy: RunningProxy
    ) -> None:
        def answer_at_the_end(connection: socket.socket) -> None:
            connection.sendall(hashlib.sha256(read_to_end(connection)).digest())

        with (
            tcp_server(answer_at_the_end) as target,
            socks_connect(proxy, target) as connection,
        ):
            connection.sendall(BIG[: 1 << 20])
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection) == hashlib.sha256(BIG[: 1 << 20]).digest()

    def test_a_target_that_ends_first_still_hears_the_program(self, proxy: RunningProxy) -> None:
        heard: list[bytes] = []
        is_over = threading.Event()

        def end_first(connection: socket.socket) -> None:
            connection.sendall(b"bye")
            connection.shutdown(socket.SHUT_WR)
            heard.append(read_to_end(connection))
            is_over.set()

        with tcp_server(end_first) as target, socks_connect(proxy, target) as connection:
            assert read_to_end(connection) == b"bye"
            connection.sendall(b"still here")
            connection.shutdown(socket.SHUT_WR)
            assert is_over.wait(WAIT_S)
        assert heard == [b"still here"]

    def test_a_reset_of_the_program_reaches_the_target(self, proxy: RunningProxy) -> None:
        is_over = threading.Event()

        def wait_for_it(connection: socket.socket) -> None:
            with contextlib.suppress(ConnectionError):
                read_to_end(connection)
            is_over.set()

        with tcp_server(wait_for_it) as target:
            connection = socks_connect(proxy, target)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
            assert is_over.wait(WAIT_S)
        proxy.wait_for(lambda status: status["connections"] == 0)

    def test_a_slow_reader_holds_the_target_back_and_nobody_else(
        self, proxy: RunningProxy, web: str
    ) -> None:
        sent = [0]

        def pour(connection: socket.socket) -> None:
            connection.settimeout(WAIT_S)
            while True:
                sent[0] += connection.send(BIG[:65_536])

        with tcp_server(pour) as target, socks_connect(proxy, target) as stuck:
            before = -1
            deadline = time.monotonic() + WAIT_S
            while sent[0] != before:  # until nothing moves any more
                assert time.monotonic() < deadline
                before = sent[0]
                time.sleep(1.0)
            # socket buffers at four places, one stream window and the relay's own buffer
            assert sent[0] < 40 << 20
            with socks_connect(proxy, proxy.address(web)) as other:
                other.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b'"/x"' in read_to_end(other)
            assert stuck.recv(10)


class TestUdp:
    def test_a_dns_query_is_answered_through_an_association(self, proxy: RunningProxy) -> None:
        with (
            run_dns_server({"host.example": "192.0.2.33"}) as port,
            socket.create_connection(proxy.address(proxy.socks), WAIT_S) as control,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local,
        ):
            control.sendall(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0")
            received = b""
            while len(received) < 12:
                received += control.recv(12 - len(received))
            assert received[2:6] == b"\x05\x00\x00\x01"
            door = (socket.inet_ntoa(received[6:10]), int.from_bytes(received[10:], "big"))
            assert door[0] == "127.0.0.1"
            local.settimeout(2.0)
            target = parse_target(f"127.0.0.1:{port}")
            query = encode_udp_header(target) + bytes(DNSRecord.question("host.example").pack())
            answer = b""
            deadline = time.monotonic() + WAIT_S
            while not answer and time.monotonic() < deadline:
                local.sendto(query, door)
                with contextlib.suppress(TimeoutError):
                    answer = local.recv(65_536)
            source, payload = decode_udp_datagram(answer)
            assert source == target
            assert str(DNSRecord.parse(payload).a.rdata) == "192.0.2.33"
            assert proxy.status()["associations"] == 1
        proxy.wait_for(lambda status: status["associations"] == 0)


def test_new_connections_work_after_the_relay_was_restarted(tmp_path: Path, web: str) -> None:
    directory = tmp_path / "relay"
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(managed_relay(directory))
        proxy = stack.enter_context(running_proxy(first, tmp_path))
        with socks_connect(proxy, proxy.address(web)) as held:
            assert first.terminate() == 0
            held.settimeout(WAIT_S)
            with contextlib.suppress(ConnectionError):
                assert held.recv(1) == b""
        stack.enter_context(
            managed_relay(directory, arguments=("--listen", f"127.0.0.1:{first.port}"))
        )
        proxy.wait_for(lambda status: bool(status["relay_up"]))
        with socks_connect(proxy, proxy.address(web)) as connection:
            connection.sendall(b"GET /again HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b'"/again"' in read_to_end(connection)


def test_connections_beyond_the_limit_are_closed_at_once(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    with running_proxy(relay, tmp_path, "--max-connections", "2") as proxy:
        address = proxy.address(proxy.socks)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(socket.create_connection(address, WAIT_S))
            proxy.wait_for(lambda status: status["connections"] == 2)
            with socket.create_connection(address, WAIT_S) as third:
                assert third.recv(1) == b""
            assert proxy.status()["over_limit"] == 1


ONE_ADDRESS = """
[[rule]]
name = "one-address"
action = "allow"
who = ["*"]
methods = ["connect-tcp"]
targets = ["127.0.0.1/32:*"]
"""


class TestFromPvd:
    def test_only_what_the_relay_leads_to_goes_through_it(self, tmp_path: Path) -> None:
        def echo(connection: socket.socket) -> None:
            connection.sendall(connection.recv(100))

        with (
            managed_relay(tmp_path, policy=ONE_ADDRESS) as relay,
            tcp_server(echo) as target,
            running_proxy(relay, tmp_path / "proxy", "--from-pvd") as proxy,
        ):
            before = proxy.status()
            for host in ("127.0.0.1", "localhost"):
                request = f"CONNECT {host}:{target[1]} HTTP/1.1\r\nHost: x\r\n\r\n"
                with socket.create_connection(proxy.address(proxy.http), WAIT_S) as client:
                    client.sendall(request.encode())
                    assert client.recv(1000).startswith(b"HTTP/1.1 200")
                    client.sendall(b"hi")
                    assert client.recv(100) == b"hi"
            after = proxy.status()
        assert after["direct"] == before["direct"] + 1  # by name, which no rule of the relay has

    def test_a_relay_that_does_not_say_is_an_error_that_says_so(self, tmp_path: Path) -> None:
        with managed_relay(tmp_path) as relay:
            way = [argument for argument in way_to(relay) if argument != str(relay.token_file)]
            way.remove("--token-file")
            done = ghostctl("proxy", *way, "--from-pvd")
        assert done.returncode == 3
        assert "did not accept the credential" in done.stderr


class TestArguments:
    def test_the_network_is_not_served_unless_that_is_meant(self, relay: ManagedRelay) -> None:
        done = ghostctl("proxy", *way_to(relay), "--listen", "0.0.0.0:0")
        assert done.returncode == 2
        assert "--allow-remote" in done.stderr

    def test_a_port_that_is_taken_is_said(self, relay: ManagedRelay, proxy: RunningProxy) -> None:
        done = ghostctl("proxy", *way_to(relay), "--listen", proxy.socks)
        assert done.returncode == 1
        assert "cannot listen" in done.stderr

    @pytest.mark.parametrize(
        "arguments",
        [["--rule", "nonsense"], ["--listen", "off"], ["--listen", "here:1"], ["--default", "x"]],
    )
    def test_bad_arguments_are_refused_before_anything_is_tried(
        self, relay: ManagedRelay, arguments: list[str]
    ) -> None:
        done = ghostctl("proxy", *way_to(relay), *arguments)
        assert done.returncode == 2
        assert done.stderr


@pytest.mark.parametrize("method", [[], ["--connect-tcp"]])
@pytest.mark.parametrize("http", ["2", "1.1"])
def test_the_proxy_works_over_tcp_too(
    relay: ManagedRelay, web: str, tmp_path: Path, http: str, method: list[str]
) -> None:
    """Many connections at once, each answered whole."""
    with running_proxy(relay, tmp_path, "--http", http, *method) as running:
        targets = [f"http://{web}/{index}" for index in range(8)]
        done = curl(
            "--parallel", "--parallel-immediate", "-H", "Connection: close",
            "-x", f"socks5h://{running.socks}", *targets,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert all(f'"/{index}"'.encode() in done.stdout for index in range(8))
        big = curl("-x", f"http://{running.http}", "-p", f"http://{web}/big")
        assert big.stdout == BIG
