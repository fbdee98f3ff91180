"""admin/listener.py: the socket; what it serves is in tests/integration/server."""

import socket
import stat
from pathlib import Path

import pytest

from masque_relay.admin.address import UnixSocket
from masque_relay.admin.listener import AdminListener


def test_a_unix_socket_is_for_its_owner_only_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    listener = AdminListener(UnixSocket(path=path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert not path.exists()
    listener.close()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    AdminListener(UnixSocket(path=path)).close()


def test_a_file_and_a_socket_in_use_are_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OSError, match="not a socket"):
        AdminListener(UnixSocket(path=file))
    assert file.read_text() == "mine"
    path = tmp_path / "admin.sock"
    first = AdminListener(UnixSocket(path=path))
    with pytest.raises(OSError, match="in use"):
        AdminListener(UnixSocket(path=path))
    first.close()
