"""Owns diagnostics on disk: one qlog file per connection and a key log, both only when asked for.

The files are streamed (qlog 0.3, JSON text sequences), so a long connection costs disk and not
memory; both are bounded. What would let a reader of a qlog act as somebody else is left out:
credentials in header sections, address validation tokens, stateless reset tokens. The key log is
for decrypting captures (NSS format) and is as secret as the traffic: mode 0600.
"""

import contextlib
import errno
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from aioquic.quic.logger import QuicLogger, QuicLoggerTrace

MAX_QLOG_FILE_BYTES = 64 * 1_048_576
"""Then the trace of that connection ends: about 200,000 packets."""
MAX_QLOG_FILES = 1_000
"""Per process: a handshake flood must not fill the disk (64 GB at the very worst)."""

_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_RECORD_SEPARATOR = "\x1e"  # RFC 7464: before each JSON text


class _StreamingTrace(QuicLoggerTrace):
    """A trace that writes each event at once instead of keeping it."""

    def __init__(self, *, is_client: bool, odcid: bytes, file: TextIO | None) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self._file = file
        self._left_bytes = MAX_QLOG_FILE_BYTES
        self._write(
            {
                "qlog_version": "0.3",
                "qlog_format": "JSON-SEQ",
                "trace": {
                    "common_fields": {"ODCID": odcid.hex(), "time_format": "absolute"},
                    "vantage_point": {
                        "name": "ghostwire",
                        "type": "client" if is_client else "server",
                    },
                },
            }
        )

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """Write one event (called by aioquic)."""
        self._write({"time": time.time() * 1_000, "name": f"{category}:{event}", "data": data})

    def encode_new_token_frame(self, token: bytes) -> dict[str, Any]:
        """Leave the token out: whoever has it may skip address validation."""
        return {"frame_type": "new_token", "length": len(token)}

    def encode_new_connection_id_frame(
        self,
        connection_id: bytes,
        retire_prior_to: int,
        sequence_number: int,
        stateless_reset_token: bytes,
    ) -> dict[str, Any]:
        """Leave the reset token out: whoever has it may end the connection."""
        return {
            "frame_type": "new_connection_id",
            "connection_id": connection_id.hex(),
            "length": len(connection_id),
            "retire_prior_to": retire_prior_to,
            "sequence_number": sequence_number,
        }

    def encode_transport_parameters(self, owner: str, parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - aioquic's own signature
        """Leave the reset token out."""
        data: dict[str, Any] = super().encode_transport_parameters(owner, parameters)
        data.pop("stateless_reset_token", None)
        return data

    def _encode_http3_headers(self, headers: list[tuple[bytes, bytes]]) -> list[dict[str, str]]:
        shown: list[dict[str, str]] = []
        for raw_name, raw_value in headers:
            name = raw_name.decode("utf-8", "replace")
            secret = name.lower() in _SECRET_HEADERS
            value = "(redacted)" if secret else raw_value.decode("utf-8", "replace")
            shown.append({"name": name, "value": value})
        return shown

    def finish(self) -> None:
        """Close the file; idempotent."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is None:
            return
        text = _RECORD_SEPARATOR + json.dumps(record, separators=(",", ":")) + "\n"
        self._left_bytes -= len(text)
        if self._left_bytes < 0:
            self.finish()
            return
        try:
            self._file.write(text)
        except OSError:
            self.finish()


class QlogDirectory(QuicLogger):
    """Writes ``<ODCID>-<server|client>-<number>.sqlog`` for every connection.

    Give it to a connection's configuration as its ``quic_logger``.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._numbers = itertools.count(1)
        self._open: set[_StreamingTrace] = set()

    def start_trace(self, is_client: bool, odcid: bytes) -> QuicLoggerTrace:  # noqa: FBT001 - aioquic's own signature
        """Open the next file; beyond the bound on files the trace goes nowhere."""
        number = next(self._numbers)
        role = "client" if is_client else "server"
        path = self._directory / f"{odcid.hex()}-{role}-{os.getpid()}-{number}.sqlog"
        file: TextIO | None = None
        if number <= MAX_QLOG_FILES:
            # A full disk or a lost directory costs the trace, never the connection.
            with contextlib.suppress(OSError):
                file = _open_private(path, os.O_EXCL)
        trace = _StreamingTrace(is_client=is_client, odcid=odcid, file=file)
        self._open.add(trace)
        return trace

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        """Close a connection's file."""
        if isinstance(trace, _StreamingTrace):
            trace.finish()
            self._open.discard(trace)

    def close(self) -> None:
        """Close what is still open."""
        for trace in self._open:
            trace.finish()
        self._open.clear()


def open_key_log(path: Path) -> TextIO:
    """Open a key log for appending, in the NSS format, readable by its owner only.

    Raises:
        OSError: the file cannot be opened, is a symbolic link, or belongs to somebody else.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _open_private(path, os.O_APPEND)


def _open_private(path: Path, flags: int) -> TextIO:
    # Where others may write too, one of them may have laid a link, or a file of their own.
    flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")
    try:
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "the file belongs to somebody else", str(path))
        # An older file may have been readable for others.
        os.fchmod(file.fileno(), 0o600)
    except OSError:
        file.close()
        raise
    return file
