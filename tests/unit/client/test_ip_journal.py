"""Owns the tests of what a crashed split tunnel has changed and how it is taken back."""

import json
import os
import subprocess
from pathlib import Path

from masque_relay.client.ip_journal import ChangedFile, Journal


def changed(path: Path, *, pid: int | None = None) -> ChangedFile:
    return ChangedFile(
        path=str(path), before="old\n", written="ours\n", pid=os.getpid() if pid is None else pid
    )


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_undo_brings_back_what_the_file_held(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("ours\n", encoding="utf-8")
    journal = Journal(directory=tmp_path)
    journal.write(changed(file))
    assert journal.undo()
    assert file.read_text(encoding="utf-8") == "old\n"
    assert not journal.path.exists()


def test_undo_leaves_alone_what_somebody_else_wrote_since(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("theirs\n", encoding="utf-8")
    journal = Journal(directory=tmp_path)
    journal.write(changed(file))
    assert journal.undo()
    assert file.read_text(encoding="utf-8") == "theirs\n"


def test_undo_without_a_journal_does_nothing(tmp_path: Path) -> None:
    assert not Journal(directory=tmp_path).undo()


def test_undo_of_a_file_that_is_gone_forgets_it(tmp_path: Path) -> None:
    journal = Journal(directory=tmp_path)
    journal.write(changed(tmp_path / "gone"))
    assert journal.undo()
    assert not journal.undo()


def test_a_damaged_journal_is_no_journal(tmp_path: Path) -> None:
    journal = Journal(directory=tmp_path)
    for content in ("", "[]", '{"path": 3}', json.dumps({"path": "/x", "before": "", "pid": "1"})):
        journal.path.write_text(content, encoding="utf-8")
        assert journal.read() is None
    assert not journal.undo()
    assert not journal.path.exists()


def test_a_journal_that_others_may_have_written_is_no_journal(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("ours\n", encoding="utf-8")
    journal = Journal(directory=tmp_path / "run")
    for path in (journal.path.parent, journal.path):
        journal.write(changed(file))
        before = path.stat().st_mode
        path.chmod(before | 0o020)
        assert not journal.undo()
        assert file.read_text(encoding="utf-8") == "ours\n"
        if path.exists():
            path.chmod(before)


def test_a_journal_of_a_live_process_is_not_ours_to_undo(tmp_path: Path) -> None:
    journal = Journal(directory=tmp_path)
    assert not journal.is_of_live_process()
    journal.write(changed(tmp_path / "file", pid=os.getppid()))
    assert journal.is_of_live_process()
    journal.write(changed(tmp_path / "file", pid=os.getpid()))
    assert not journal.is_of_live_process()
    journal.write(changed(tmp_path / "file", pid=dead_pid()))
    assert not journal.is_of_live_process()
