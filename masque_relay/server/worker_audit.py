"""Owns the audit lines of workers on their way to the one trail that the supervisor writes."""

import asyncio
import os
import socket
from collections.abc import Callable

MAX_RECORD_BYTES = 65_536
"""Lines per send; a socket of records takes three of them at the kernel's usual 208 KiB."""


class AuditPipe:
    """The worker's end: a control.audit.AuditSink for its writer thread."""

    def __init__(self, end: socket.socket) -> None:
        """Take a blocking SOCK_SEQPACKET socket."""
        end.settimeout(None)
        self._end = end

    def write(self, lines: bytes) -> None:
        """Send whole lines, a few at a time; wait while the supervisor is behind.

        Raises:
            OSError: the supervisor is gone.
        """
        start = 0
        while start < len(lines):
            end = min(len(lines), start + MAX_RECORD_BYTES)
            if end < len(lines):
                # A line is never that long: its parts are bounded where they come in.
                end = lines.rfind(b"\n", start, end) + 1 or end
            self._end.sendall(lines[start:end])
            start = end

    def close(self) -> None:
        """Close; idempotent."""
        self._end.close()


class AuditInlet:
    """The supervisor's end: passes whole lines on."""

    def __init__(self, end: socket.socket, pass_on: Callable[[bytes], None]) -> None:
        """Take the socket; :meth:`open` begins."""
        end.settimeout(0)
        self.end = end
        self._pass_on = pass_on
        self._is_open = False

    def open(self) -> None:
        """Take lines from now on. To be called in the event loop."""
        self._is_open = True
        asyncio.get_running_loop().add_reader(self.end.fileno(), self._on_readable)

    def release(self) -> None:
        """Take no more; the socket stays open and keeps what comes."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self.end.fileno())

    def close(self) -> None:
        """Take what has come and close; idempotent."""
        if self.end.fileno() >= 0:
            self._on_readable()
            self.release()
            self.end.close()

    def _on_readable(self) -> None:
        for _ in range(16):
            try:
                lines = os.read(self.end.fileno(), MAX_RECORD_BYTES)
            except OSError:
                return
            if not lines:
                self.release()
                return
            self._pass_on(lines)
