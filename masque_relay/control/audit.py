"""Owns the audit trail: one JSON line per decision and per tunnel end, written off the event loop.

A record may name the subject, the target and the source; it never holds a credential. Operators who
keep the trail keep personal data (docs/reference/audit.md).
"""

import os
import queue
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson

from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.settings import AuditSettings

MAX_BATCH_RECORDS = 512  # bounds one write to some hundred KiB
_CLOSE_TIMEOUT_S = 5.0

Record = Mapping[str, object]


class AuditTrail(Protocol):
    """Where the gate reports to."""

    def write(self, record: Record) -> None:
        """Take one record. Never blocks and never raises."""
        ...


class AuditSink(Protocol):
    """Where lines end up; used by the writer thread only."""

    def write(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            OSError: they could not be written.
        """
        ...

    def close(self) -> None:
        """Close; idempotent."""
        ...


class StreamSink:
    """Appends to an open stream that somebody else owns, such as standard output."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        self._stream.write(lines)
        self._stream.flush()

    def close(self) -> None:
        """Leave the stream to its owner."""


class RotatingFileSink:
    """Appends to a file that is renamed to ``NAME.1``, ``NAME.2``, … before it grows too large."""

    def __init__(self, path: Path, *, max_file_bytes: int, keep_files: int) -> None:
        """Open the file, mode 0600.

        Raises:
            OSError: it can't be opened.
        """
        self._path = path
        self._max_file_bytes = max_file_bytes
        self._keep_files = keep_files
        self._descriptor: int | None = None
        self._size_bytes = 0
        self._open()

    def write(self, lines: bytes) -> None:
        """Append whole lines, rotating before if they don't fit."""
        if self._size_bytes and self._size_bytes + len(lines) > self._max_file_bytes:
            self._rotate()
        descriptor = self._descriptor if self._descriptor is not None else self._open()
        rest = memoryview(lines)
        while rest:
            written = os.write(descriptor, rest)
            self._size_bytes += written
            rest = rest[written:]

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        self._descriptor = descriptor
        self._size_bytes = os.fstat(descriptor).st_size
        return descriptor

    def _rotate(self) -> None:
        self.close()
        self._numbered(self._keep_files).unlink(missing_ok=True)
        for number in range(self._keep_files - 1, 0, -1):
            if self._numbered(number).exists():
                self._numbered(number).replace(self._numbered(number + 1))
        if self._keep_files:
            self._path.replace(self._numbered(1))
        else:
            self._path.unlink()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class AuditWriter:
    """Hands records to a thread of its own through a bounded queue; implements ``AuditTrail``.

    Attributes:
        dropped_count: records lost because the queue was full.
        failed_count: records lost because the sink could not write them.
    """

    def __init__(self, sink: AuditSink, *, queue_records: int) -> None:
        """Start the thread; :meth:`close` ends it and closes the sink."""
        self._sink = sink
        self._queue: queue.Queue[bytes | None] = queue.Queue(queue_records)
        self._closed = False
        self.dropped_count = 0
        self.failed_count = 0
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def lost_count(self) -> int:
        """Records that are not in the trail, for whatever reason."""
        return self.dropped_count + self.failed_count

    def write(self, record: Record) -> None:
        """Queue one record; drop and count it if the queue is full or the writer is closed."""
        if self._closed:
            self.dropped_count += 1
            return
        try:
            line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        except orjson.JSONEncodeError:  # lone surrogates in what a peer sent
            line = orjson.dumps(_escaped(record), option=orjson.OPT_APPEND_NEWLINE)
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped_count += 1

    def pass_on(self, lines: bytes) -> None:
        """Queue whole lines that another process wrote; drop and count them as :meth:`write`."""
        for line in lines.splitlines(keepends=True):
            try:
                if self._closed:
                    raise queue.Full
                self._queue.put_nowait(line)
            except queue.Full:
                self.dropped_count += 1

    def close(self, *, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, end the thread and close the sink; idempotent. Blocks."""
        if self._closed:
            return
        self._closed = True
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return  # the sink hangs; the daemon thread ends with the process
        self._thread.join(timeout_s)

    def _run(self) -> None:
        open_ = True
        while open_:
            batch = [self._queue.get()]
            while len(batch) < MAX_BATCH_RECORDS:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            lines = [line for line in batch if line is not None]
            open_ = len(lines) == len(batch)
            if lines:
                self._write_lines(lines)
        self._sink.close()

    def _write_lines(self, lines: list[bytes]) -> None:
        try:
            self._sink.write(b"".join(lines))
        except (OSError, ValueError):  # ValueError: the stream was closed under us
            self.failed_count += len(lines)


def open_audit_trail(settings: AuditSettings) -> AuditWriter:
    """Return a running writer; the caller closes it.

    Raises:
        ConfigError: the file can't be opened.
    """
    if settings.file is None:
        sink: AuditSink = StreamSink(sys.stdout.buffer)
    else:
        try:
            sink = RotatingFileSink(
                settings.file,
                max_file_bytes=settings.max_file_bytes,
                keep_files=settings.keep_files,
            )
        except OSError as error:
            detail = f"the audit file can't be opened: {error.strerror or error}"
            raise ConfigError([Problem(file=str(settings.file), detail=detail)]) from error
    return AuditWriter(sink, queue_records=settings.queue_records)


def format_time(wall_s: float) -> str:
    """Return a moment as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")


def _escaped(record: Record) -> dict[str, object]:
    return {
        key: value.encode("utf-8", "backslashreplace").decode("utf-8")
        if isinstance(value, str)
        else value
        for key, value in record.items()
    }
