"""Diagnostics on disk."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from masque_relay.quic import qlog
from masque_relay.quic.qlog import QlogDirectory, open_key_log


def records(path: Path) -> list[dict[str, Any]]:
    texts = path.read_text().split("\x1e")
    assert texts[0] == ""
    return [json.loads(text) for text in texts[1:]]


def test_each_connection_has_its_own_private_file_that_grows_as_it_lives(tmp_path: Path) -> None:
    directory = QlogDirectory(tmp_path / "qlog")
    traces = [directory.start_trace(False, b"\x01" * 8), directory.start_trace(True, b"\x01" * 8)]
    for trace in traces:
        trace.log_event(category="transport", event="packet_sent", data={"n": 1})
        directory.end_trace(trace)
    paths = sorted((tmp_path / "qlog").iterdir())
    assert [path.name.split("-")[:2] for path in paths] == [
        ["01" * 8, "client"],
        ["01" * 8, "server"],
    ]
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        head, event = records(path)
        assert head["qlog_format"] == "JSON-SEQ"
        assert event["name"] == "transport:packet_sent"


def test_credentials_and_tokens_are_left_out(tmp_path: Path) -> None:
    directory = QlogDirectory(tmp_path)
    trace = directory.start_trace(False, b"\x02" * 8)
    headers = [(b"authorization", b"Bearer s3cret"), (b"cookie", b"s3cret"), (b"x", b"shown")]
    trace.log_event(
        category="http",
        event="frame_parsed",
        data={
            "headers": trace.encode_http3_headers_frame(9, headers, 0),
            "token": trace.encode_new_token_frame(b"s3cret"),
            "cid": trace.encode_new_connection_id_frame(b"c" * 8, 0, 1, b"s3cret"),
        },
    )
    directory.close()
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert "s3cret" not in text
    assert b"s3cret".hex() not in text
    assert "shown" in text
    assert "(redacted)" in text


def test_trace_stops_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qlog, "MAX_QLOG_FILE_BYTES", 1_000)
    directory = QlogDirectory(tmp_path)
    trace = directory.start_trace(False, b"\x03" * 8)
    for _ in range(100):
        trace.log_event(category="transport", event="packet_sent", data={})
    directory.end_trace(trace)
    (path,) = tmp_path.iterdir()
    assert 500 < path.stat().st_size <= 1_000
    assert records(path)


def test_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qlog, "MAX_QLOG_FILES", 2)
    directory = QlogDirectory(tmp_path)
    for _ in range(5):
        trace = directory.start_trace(False, b"\x04" * 8)
        trace.log_event(category="transport", event="packet_sent", data={})
    directory.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_lost_directory_costs_the_trace_only(tmp_path: Path) -> None:
    directory = QlogDirectory(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    trace = directory.start_trace(False, b"\x05" * 8)
    trace.log_event(category="transport", event="packet_sent", data={})
    directory.end_trace(trace)


def test_key_log_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    path.write_text("old\n")
    path.chmod(0o644)
    with open_key_log(path) as file:
        file.write("new\n")
    assert path.read_text() == "old\nnew\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
