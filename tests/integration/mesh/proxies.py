"""Owns the proxies that stand between a peer and its relay: tinyproxy, and our own SOCKS5."""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

USER, PASSWORD = "carol", "s3cret-of-carol"
_START_S = 15.0


@dataclass(frozen=True)
class RunningProxy:
    """A proxy that lets only one user out."""

    port: int
    log_file: Path
    scheme: str = "http"

    def url(self, password: str = PASSWORD) -> str:
        return f"{self.scheme}://{USER}:{password}@127.0.0.1:{self.port}"

    def log(self) -> str:
        return self.log_file.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def tinyproxy(directory: Path) -> Generator[RunningProxy]:
    """Run tinyproxy with Basic authentication."""
    program = shutil.which("tinyproxy")
    if program is None:
        pytest.skip("needs tinyproxy: .ci/run installs it")
    port = free_port()
    log, config = directory / "tinyproxy.log", directory / "tinyproxy.conf"
    config.write_text(
        f'Port {port}\nListen 127.0.0.1\nTimeout 600\nLogFile "{log}"\nLogLevel Connect\n'
        f"MaxClients 50\nAllow 127.0.0.1\nBasicAuth {USER} {PASSWORD}\n"
    )
    process = subprocess.Popen([program, "-d", "-c", str(config)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "tinyproxy ended"
                assert time.monotonic() < deadline, "tinyproxy does not listen"
                time.sleep(0.05)
        yield RunningProxy(port, log)
    finally:
        process.terminate()
        process.wait(timeout=_START_S)
