"""connect-ip-go's client through the relay: addresses, routes, packets, refusals."""

import json
import queue
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.go_programs import build_go_program
from tests.support.h3_client import WAIT_S
from tests.support.ip_packets import (
    has_good_checksums,
    icmp_kind,
    ipv4,
    ping4,
    ping6,
    source_of,
    udp,
)
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import executable

POLICY = """
[[rule]]
name = "vpn"
action = "allow"
who = ["alice@example.org"]
methods = ["connect-ip"]
targets = ["10.71.0.0/24:*", "[fd71::/64]:*"]
"""
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(
        [executable("openssl"), *arguments], cwd=directory, check=True, capture_output=True
    )


def make_certificates(directory: Path) -> None:
    """A client CA, and certificates for alice, whom the policy knows, and mallory."""
    openssl(
        directory, "req", "-x509", *NEW_KEY, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem",
        "-subj", "/CN=CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    for name in ("alice", "mallory"):
        (directory / f"{name}.ext").write_text(
            "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n"
            f"extendedKeyUsage = clientAuth\nsubjectAltName = email:{name}@example.org\n"
        )
        openssl(
            directory, "req", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}",
        )  # fmt: skip
        openssl(
            directory, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[ManagedRelay, Path, Path]]:
    """A relay with CONNECT-IP and client certificates; their directory; the program."""
    program = build_go_program("connect-ip-go", "./client")
    directory = tmp_path_factory.mktemp("connect-ip-go")
    make_certificates(directory)
    config = f"""
[connect_ip]
enabled = true
egress = "loop"
pools = ["10.71.0.0/24", "fd71::/64"]
templates = ["/vpn"]

[gate.mtls]
ca_files = ["{directory}/ca.pem"]
"""
    with managed_relay(directory, policy=POLICY, config=config) as relay:
        yield relay, directory, program


class Tunnel:
    """The program, with its lines."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def line(self, timeout_s: float = WAIT_S) -> str:
        return self._lines.get(timeout=timeout_s)

    def exchange(self, packet: bytes, *, tries: int = 20) -> bytes:
        """Send a packet until another one comes."""
        assert self.process.stdin is not None
        for _ in range(tries):
            self.process.stdin.write(packet.hex() + "\n")
            self.process.stdin.flush()
            try:
                return bytes.fromhex(self.line(WAIT_S / tries))
            except queue.Empty:
                continue
        raise AssertionError("no packet came")


@contextmanager
def client(
    scene: tuple[ManagedRelay, Path, Path], who: str, path: str = "vpn"
) -> Generator[Tunnel]:
    relay, directory, program = scene
    certificate = ["-cert", str(directory / f"{who}.pem"), "-key", str(directory / f"{who}.key")]
    with subprocess.Popen(
        [
            str(program),
            "-url",
            f"https://localhost:{relay.port}/{path}",
            "-ca",
            str(relay.ca_file),
            *(certificate if who else []),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Tunnel(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(WAIT_S)


@pytest.mark.interop("connect-ip-go", "CONNECT-IP", "3")
def test_it_gets_addresses_and_routes_and_carries_packets(
    scene: tuple[ManagedRelay, Path, Path],
) -> None:
    with client(scene, "alice") as tunnel:
        told = json.loads(tunnel.line())
        ipv4_prefix, ipv6_prefix = told["Prefixes"]
        assert ipv4_prefix.startswith("10.71.0.")
        assert ipv4_prefix.endswith("/32")
        assert ipv6_prefix.endswith("/128")
        assert [(route["First"], route["Last"], route["Protocol"]) for route in told["Routes"]] == [
            ("10.71.0.0", "10.71.0.255", 0),
            ("fd71::", "fd71::ffff:ffff:ffff:ffff", 0),
        ]
        us4, us6 = ipv4_prefix.partition("/")[0], ipv6_prefix.partition("/")[0]

        pong = tunnel.exchange(ping4(us4, "10.71.0.200"))
        assert (icmp_kind(pong), source_of(pong)) == ((0, 0), "10.71.0.200")
        assert has_good_checksums(pong)
        pong = tunnel.exchange(ping6(us6, "fd71::200", bytes(1_232)))
        assert (icmp_kind(pong), len(pong)) == ((129, 0), 1_280)
        echo = tunnel.exchange(ipv4(us4, "10.71.0.200", udp(b"hello")))
        assert echo.endswith(b"hello")
        assert source_of(tunnel.exchange(ping4(us4, "10.71.0.1"))) == "10.71.0.1"

        nowhere = tunnel.exchange(ping4(us4, "192.0.2.1"))
        assert (icmp_kind(nowhere), source_of(nowhere)) == ((3, 0), "10.71.0.1")


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [("mallory", "vpn", 403), ("", "vpn", 401), ("alice", "elsewhere", 404)],
)
def test_it_hears_why_it_is_refused(
    scene: tuple[ManagedRelay, Path, Path], who: str, path: str, status: int
) -> None:
    with client(scene, who, path) as tunnel:
        assert tunnel.process.wait(WAIT_S) == 1
        assert tunnel.process.stderr is not None
        assert f"status {status}" in tunnel.process.stderr.read()
