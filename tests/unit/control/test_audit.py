"""The trail: whole JSON lines, bounded files, and a path that never waits for the disk."""

import io
import json
import stat
import threading
from pathlib import Path

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.control.audit import (
    AuditWriter,
    RotatingFileSink,
    StreamSink,
    format_time,
    open_audit_trail,
)
from masque_relay.control.settings import AuditSettings


class StuckSink:
    """Hangs like a dead disk until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.lines: list[bytes] = []
        self.closed = False

    def write(self, lines: bytes) -> None:
        self.entered.set()
        assert self.go.wait(30)
        self.lines.append(lines)

    def close(self) -> None:
        self.closed = True


class FailingSink:
    def write(self, lines: bytes) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        pass


def test_records_become_json_lines_in_order(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    writer = open_audit_trail(AuditSettings(file=file))
    for number in range(1000):
        writer.write({"event": "decision", "n": number})
    writer.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["n"] for line in lines] == list(range(1000))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert writer.lost_count == 0


def test_a_stuck_disk_costs_records_not_time() -> None:
    sink = StuckSink()
    writer = AuditWriter(sink, queue_records=10)
    writer.write({"n": -1})
    assert sink.entered.wait(30)
    for number in range(25):
        writer.write({"n": number})
    assert writer.dropped_count == 15
    sink.go.set()
    writer.close()
    assert sink.closed
    assert len(b"".join(sink.lines).splitlines()) == 11


def test_a_full_disk_is_counted_and_later_records_are_tried() -> None:
    writer = AuditWriter(FailingSink(), queue_records=10)
    writer.write({"n": 1})
    writer.write({"n": 2})
    writer.close()
    assert writer.failed_count == 2
    writer.write({"n": 3})
    assert writer.dropped_count == 1


def test_text_that_is_no_unicode_is_escaped_not_lost() -> None:
    stream = io.BytesIO()
    writer = AuditWriter(StreamSink(stream), queue_records=10)
    writer.write({"target": "a\udcffb", "n": 1})
    writer.close()
    assert json.loads(stream.getvalue()) == {"target": "a\\udcffb", "n": 1}


def test_a_file_is_rotated_before_it_grows_too_large(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    sink = RotatingFileSink(file, max_file_bytes=10, keep_files=2)
    for letter in b"abcde":
        sink.write(bytes([letter]) * 5 + b"\n")
    sink.close()
    assert file.read_bytes() == b"eeeee\n"
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"ddddd\n"
    assert (tmp_path / "audit.jsonl.2").read_bytes() == b"ccccc\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_rotation_counts_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_bytes(b"12345678\n")
    sink = RotatingFileSink(file, max_file_bytes=10, keep_files=0)
    sink.write(b"abc\n")
    sink.close()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"abc\n"]


def test_a_file_that_can_not_be_opened_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be opened"):
        open_audit_trail(AuditSettings(file=tmp_path / "no" / "audit.jsonl"))


def test_close_is_idempotent() -> None:
    writer = AuditWriter(StreamSink(io.BytesIO()), queue_records=1)
    writer.close()
    writer.close()


def test_times_are_rfc_3339_in_utc() -> None:
    assert format_time(1_700_000_000.25) == "2023-11-14T22:13:20.250+00:00"
