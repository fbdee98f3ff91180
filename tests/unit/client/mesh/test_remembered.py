"""What worked where: bounded, private, and forgotten rather than wrong."""

from pathlib import Path

import pytest

from masque_relay.client.mesh.remembered import MAX_NETWORKS, WayMemory, default_file
from masque_relay.client.mesh.way import WayKind


def test_way_is_remembered_per_network(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "ways.json"
    WayMemory(file).remember("at home", WayKind.H3)
    WayMemory(file).remember("at work", WayKind.WEBSOCKET)
    WayMemory(file).remember("at home", WayKind.QUIC)

    assert WayMemory(file).recall("at home") is WayKind.QUIC
    assert WayMemory(file).recall("at work") is WayKind.WEBSOCKET
    assert WayMemory(file).recall("on the train") is None


def test_file_is_the_users_alone_and_names_no_network(tmp_path: Path) -> None:
    file = tmp_path / "ways.json"
    WayMemory(file).remember("192.0.2.7 eth0", WayKind.H2)

    assert file.stat().st_mode & 0o777 == 0o600
    assert b"192.0.2.7" not in file.read_bytes()
    assert list(tmp_path.iterdir()) == [file], "nothing is left beside it"


def test_oldest_networks_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = WayMemory(tmp_path / "ways.json")
    for number in range(MAX_NETWORKS + 2):
        monkeypatch.setattr("time.time", lambda number=number: 1_000 + number)
        memory.remember(f"network {number}", WayKind.H1)

    assert memory.recall("network 0") is None
    assert memory.recall("network 1") is None
    assert memory.recall("network 2") is WayKind.H1
    assert memory.recall(f"network {MAX_NETWORKS + 1}") is WayKind.H1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"salt": "00", "networks": []}',
        b'{"salt": "zz", "networks": {}}',
        b'{"salt": "00", "networks": {"a": {"way": "carrier pigeon", "used_s": 1}}}',
        b'{"salt": "00", "networks": {"a": 1}}',
        b"\xff" * 100,
        b'{"salt": "00", "networks": {}' + b" " * 100_000 + b"}",
    ],
)
def test_corrupt_file_remembers_nothing_and_is_replaced(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "ways.json"
    file.write_bytes(content)
    assert WayMemory(file).recall("here") is None
    WayMemory(file).remember("here", WayKind.HTTPS)
    assert WayMemory(file).recall("here") is WayKind.HTTPS


def test_file_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "ways.json").mkdir()
    memory = WayMemory(tmp_path / "ways.json")
    memory.remember("here", WayKind.H3)
    assert memory.recall("here") is None


def test_memory_lies_in_the_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_file() == tmp_path / "ghostwire" / "ways.json"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_file() == Path("~/.local/state/ghostwire/ways.json").expanduser()
