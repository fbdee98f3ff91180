"""Owns traffic that must not lose a byte: a web server with curl, and a conversation over TCP."""

import hashlib
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.processes import TIMESCALE, executable, start_process
from tests.support.vpn_rig import Host

WEB_PORT, CHAT_PORT = 8080, 7
"""In a namespace where nobody else lives."""
WEB_SERVER = Path(__file__).with_name("web_server.py")
ANSWER_S = 45.0 * TIMESCALE
TYPE_EVERY_S = 0.1


@contextmanager
def web_site(
    host: Host, directory: Path, *, size_bytes: int, address: str = "127.0.0.1"
) -> Generator[str]:
    """Run a web server with one random file, ``file.bin``; yields the file's SHA-256."""
    directory.mkdir(exist_ok=True)
    content = secrets.token_bytes(size_bytes)
    (directory / "file.bin").write_bytes(content)
    command = ["python3", str(WEB_SERVER), address, str(WEB_PORT), str(directory)]
    log = directory / "web.log"
    with start_process(
        [*host.prefix, *command],
        log=log,
        ready=lambda: "Serving" in log.read_text() or None,
    ):
        yield hashlib.sha256(content).hexdigest()


class Download:
    """curl fetches ``file.bin`` in the background, slowly, so that there is a middle."""

    def __init__(self, host: Host, address: str, target: Path, *, bytes_per_s: int) -> None:
        self.target = target
        command = [
            executable("curl"),
            "--silent",
            "--show-error",
            "--fail",
            "--output",
            str(target),
        ]
        command.append(f"http://{address}/file.bin?bytes_per_s={bytes_per_s}")
        self._began_s = time.monotonic()
        self._process = subprocess.Popen(
            [*host.prefix, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    @property
    def size_bytes(self) -> int:
        """What has arrived so far."""
        return self.target.stat().st_size if self.target.exists() else 0

    @property
    def is_running(self) -> bool:
        """Whether curl still runs."""
        return self._process.poll() is None

    def assert_running(self) -> None:
        """Fail unless curl still runs, and say how it ended."""
        code = self._process.poll()
        if code is not None:
            age_s = time.monotonic() - self._began_s
            pytest.fail(f"curl ended with {code} in {age_s:.1f} s, {self.size_bytes} bytes")

    def finish(self, deadline_s: float = ANSWER_S) -> str:
        """Wait for curl, which must succeed; return the file's SHA-256."""
        _, errors = self._process.communicate(timeout=deadline_s)
        assert self._process.returncode == 0, errors.decode()
        return hashlib.sha256(self.target.read_bytes()).hexdigest()

    def close(self) -> None:
        """Kill curl if it still runs."""
        if self.is_running:
            self._process.kill()
        self._process.communicate()


@contextmanager
def downloading(
    host: Host, address: str, directory: Path, *, bytes_per_s: int
) -> Generator[Download]:
    """Download while the block runs."""
    download = Download(
        host, address, directory / f"{secrets.token_hex(4)}.got", bytes_per_s=bytes_per_s
    )
    try:
        yield download
    finally:
        download.close()


@contextmanager
def tcp_echo(host: Host) -> Generator[None]:
    """Echo what comes to ``CHAT_PORT`` in a namespace."""
    listener = host.call(lambda: socket.create_server(("127.0.0.1", CHAT_PORT)))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65_536):
                connection.sendall(data)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


class Conversation:
    """Somebody types a line, waits for its echo, and types the next.

    Attributes:
        line_count: lines that were echoed.
        longest_wait_s: for one echo.
        trouble: why it broke off; None while all is well.
    """

    def __init__(self, host: Host, address: str) -> None:
        self.line_count = 0
        self.longest_wait_s = 0.0
        self.trouble: str | None = None
        name, _, port = address.rpartition(":")
        self._socket = host.call(lambda: socket.create_connection((name, int(port))))
        self._socket.settimeout(ANSWER_S)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the line under way be answered, and hang up."""
        self._is_over.set()
        self._thread.join(ANSWER_S)
        if self._thread.is_alive():
            self.trouble = self.trouble or "no echo"
        self._socket.close()

    def _talk(self) -> None:
        try:
            with self._socket.makefile("rb") as echoes:
                while not self._is_over.wait(TYPE_EVERY_S):
                    line = b"%d %s\n" % (self.line_count, os.urandom(8).hex().encode())
                    began_s = time.monotonic()
                    self._socket.sendall(line)
                    echo = echoes.readline()
                    if echo != line:
                        self.trouble = f"typed {line!r}, saw {echo!r}"
                        return
                    self.line_count += 1
                    self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - began_s)
        except OSError as error:
            self.trouble = str(error)


@contextmanager
def talking(host: Host, address: str) -> Generator[Conversation]:
    """Talk while the block runs."""
    conversation = Conversation(host, address)
    try:
        yield conversation
    finally:
        conversation.close()
