"""Owns the proxies that stand between a peer and its relay: tinyproxy, and our own SOCKS5."""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.vpn_rig import Host

USER, PASSWORD = "carol", "s3cret-of-carol"
_START_S = 15.0


@dataclass(frozen=True)
class RunningProxy:
    """A proxy that lets only one user out."""

    port: int
    log_file: Path
    scheme: str = "http"
    address: str = "127.0.0.1"

    def url(self, password: str = PASSWORD) -> str:
        return f"{self.scheme}://{USER}:{password}@{self.address}:{self.port}"

    def log(self) -> str:
        return self.log_file.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def tinyproxy(
    directory: Path, *, host: Host | None = None, address: str = "127.0.0.1"
) -> Generator[RunningProxy]:
    """Run tinyproxy with Basic authentication, for everybody who reaches its address.

    Args:
        directory: for its files.
        host: the namespace where it runs; by default ours.
        address: of its own, where it listens.
    """
    program = shutil.which("tinyproxy")
    if program is None:
        pytest.skip("needs tinyproxy: .ci/run installs it")
    port = free_port()
    log, config = directory / "tinyproxy.log", directory / "tinyproxy.conf"
    config.write_text(
        f'Port {port}\nListen {address}\nTimeout 600\nLogFile "{log}"\nLogLevel Connect\n'
        f"MaxClients 50\nBasicAuth {USER} {PASSWORD}\n"
    )
    prefix = [] if host is None else host.prefix
    knock = partial(_knock, address, port)
    if host is not None:
        knock = partial(host.call, knock)
    command = [*prefix, program, "-d", "-c", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                knock()
                break
            except OSError:
                assert process.poll() is None, "tinyproxy ended"
                assert time.monotonic() < deadline, "tinyproxy does not listen"
                time.sleep(0.05)
        yield RunningProxy(port, log, address=address)
    finally:
        process.terminate()
        process.wait(timeout=_START_S)


def _knock(address: str, port: int) -> None:
    socket.create_connection((address, port), timeout=1).close()
