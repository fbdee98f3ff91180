"""Files that the relay writes where others may write too, such as /tmp."""

import os
import stat
from pathlib import Path

import pytest

from masque_relay.quic.qlog import open_key_log
from masque_relay.server.ready_file import write_ready_files
from masque_relay.server.source import RelayFiles


def write_ready(path: Path) -> None:
    files = RelayFiles(ready_file=path)
    write_ready_files(files, h3="127.0.0.1:1", admin="http://127.0.0.1:2", admin_token_file="t")


def test_a_link_laid_where_the_ready_file_is_made_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    ready = tmp_path / "ready.json"
    (tmp_path / f".ready.json.{os.getpid()}").symlink_to(precious)
    ready.symlink_to(precious)
    write_ready(ready)
    assert precious.read_text() == "keep me"
    assert not ready.is_symlink()
    assert '"h3"' in ready.read_text()


def test_a_key_log_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "keys.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        open_key_log(tmp_path / "keys.log")
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_log_that_is_there_already_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    path.touch(mode=0o666)
    open_key_log(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_log_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could read it, or hold it open."""
    path = tmp_path / "keys.log"
    path.touch()
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(PermissionError):
        open_key_log(path)
    assert path.read_text() == ""
