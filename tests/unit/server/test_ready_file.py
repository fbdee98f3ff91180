"""server/ready_file.py: whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.server.ready_file import remove_ready_files, write_ready_files
from masque_relay.server.source import RelayFiles


def write(files: RelayFiles) -> None:
    write_ready_files(files, h3="127.0.0.1:1", admin="http://127.0.0.1:2", admin_token_file="/t")


def test_it_names_what_is_known_and_leaves_out_the_rest(tmp_path: Path) -> None:
    files = RelayFiles(ready_file=tmp_path / "ready.json", ca_file=tmp_path / "ca.pem")
    write(files)
    assert json.loads((tmp_path / "ready.json").read_text()) == {
        "h3": "127.0.0.1:1",
        "admin": "http://127.0.0.1:2",
        "admin_token_file": "/t",
        "ca_file": str(tmp_path / "ca.pem"),
        "pid": os.getpid(),
    }


def test_an_old_file_is_replaced_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ready.json"
    path.write_text("old")
    seen: list[str] = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(target.read_text())
        json.loads(self.read_text())
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write(RelayFiles(ready_file=path))
    assert seen == ["old"]
    assert json.loads(path.read_text())["h3"] == "127.0.0.1:1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["ready.json"]


def test_both_files_go_away_and_missing_ones_are_fine(tmp_path: Path) -> None:
    files = RelayFiles(ready_file=tmp_path / "r", admin_url_file=tmp_path / "u")
    write(files)
    assert (tmp_path / "u").read_text() == "http://127.0.0.1:2\n"
    remove_ready_files(files)
    assert list(tmp_path.iterdir()) == []
    remove_ready_files(files)
    remove_ready_files(RelayFiles())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent/ready\.json: the ready file can't be written"):
        write(RelayFiles(ready_file=tmp_path / "absent" / "ready.json"))


def test_it_names_the_tcp_address_where_there_is_one(tmp_path: Path) -> None:
    files = RelayFiles(ready_file=tmp_path / "ready.json")
    write_ready_files(
        files,
        h3="127.0.0.1:1",
        admin="http://127.0.0.1:2",
        admin_token_file="/t",
        https="127.0.0.1:3",
    )
    assert json.loads((tmp_path / "ready.json").read_text())["https"] == "127.0.0.1:3"
