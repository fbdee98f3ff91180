"""Owns the tests of how large the client's socket buffers are."""

from pathlib import Path

from masque_relay.client.sockets import WANTED_BYTES, socket_limits


def test_no_more_is_asked_for_than_the_kernel_grants(tmp_path: Path) -> None:
    (tmp_path / "rmem_max").write_text("212992\n")
    (tmp_path / "wmem_max").write_text("425984\n")
    limits = socket_limits(tmp_path)
    assert (limits.receive_buffer_bytes, limits.send_buffer_bytes) == (212_992, 425_984)


def test_a_generous_kernel_is_not_taken_advantage_of(tmp_path: Path) -> None:
    (tmp_path / "rmem_max").write_text(str(1 << 30))
    (tmp_path / "wmem_max").write_text(str(1 << 30))
    limits = socket_limits(tmp_path)
    assert limits.receive_buffer_bytes == limits.send_buffer_bytes == WANTED_BYTES


def test_a_system_that_does_not_tell_is_asked_for_all(tmp_path: Path) -> None:
    (tmp_path / "rmem_max").write_text("unlimited")
    limits = socket_limits(tmp_path)
    assert limits.receive_buffer_bytes == limits.send_buffer_bytes == WANTED_BYTES
