"""Files between peers: whole and checked, or not at all."""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from masque_relay.client.errors import PeerRefused
from masque_relay.client.mesh.files import receive_file, send_file


class Wire:
    """One end of a stream in memory."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.far: Wire | None = None
        self.is_aborted = False
        self.corrupts = False

    async def read(self, max_bytes: int = 65_536) -> bytes:
        return await self.incoming.get()

    async def write(self, data: bytes) -> None:
        assert self.far is not None
        if self.corrupts and len(data) > 1_000:
            data = b"X" + data[1:]
        self.far.incoming.put_nowait(data)

    def write_eof(self) -> None:
        assert self.far is not None
        self.far.incoming.put_nowait(b"")

    def abort(self) -> None:
        self.is_aborted = True
        self.write_eof()


def wires() -> tuple[Any, Any]:
    one, other = Wire(), Wire()
    one.far, other.far = other, one
    return one, other


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_file_arrives_whole_under_its_name(tmp_path: Path) -> None:
    source, inbox = tmp_path / "photo.jpg", tmp_path / "inbox"
    source.write_bytes(bytes(range(256)) * 1_000)
    inbox.mkdir()
    here, there = wires()
    moved: list[int] = []
    received, _ = await asyncio.gather(
        receive_file(inbox, b"peer", there), send_file(source, here, moved.append)
    )

    assert received.path == inbox / "photo.jpg"
    assert received.path.read_bytes() == source.read_bytes()
    assert sum(moved) == received.size_bytes == 256_000


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".", "..", "a\nb", "a\0b", "x" * 256])
async def test_name_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str) -> None:
    here, there = wires()
    encoded = name.encode()
    await here.write(len(encoded).to_bytes(2, "big") + encoded + bytes(8))

    with pytest.raises(PeerRefused, match="no file name"):
        await receive_file(tmp_path, b"peer", there)
    assert names_in(tmp_path) == []
    assert there.is_aborted


async def test_changed_bytes_are_noticed_and_nothing_is_left(tmp_path: Path) -> None:
    source, inbox = tmp_path / "f", tmp_path / "inbox"
    source.write_bytes(bytes(5_000))
    inbox.mkdir()
    here, there = wires()
    here.corrupts = True
    results = await asyncio.gather(
        receive_file(inbox, b"peer", there),
        send_file(source, here, lambda _: None),
        return_exceptions=True,
    )

    assert [type(result) for result in results] == [PeerRefused, PeerRefused]
    assert names_in(inbox) == []


async def test_sender_that_stops_leaves_nothing(tmp_path: Path) -> None:
    here, there = wires()
    await here.write(b"\x00\x01f" + (100).to_bytes(8, "big") + bytes(50))
    here.write_eof()

    with pytest.raises(PeerRefused, match="stopped"):
        await receive_file(tmp_path, b"peer", there)
    assert names_in(tmp_path) == []


async def test_second_sender_of_the_same_name_does_not_disturb_the_first(tmp_path: Path) -> None:
    head = b"\x00\x01f" + (4).to_bytes(8, "big")
    first, first_there = wires()
    await first.write(head + b"ab")
    receiving = asyncio.ensure_future(receive_file(tmp_path, b"first", first_there))
    for _ in range(10):
        await asyncio.sleep(0)
    assert names_in(tmp_path) == ["f.part"]
    second, second_there = wires()
    await second.write(head)
    with pytest.raises(FileExistsError):
        await receive_file(tmp_path, b"second", second_there)

    await first.write(b"cd" + sha256(b"abcd").digest())
    assert (await receiving).path.read_bytes() == b"abcd"
    assert names_in(tmp_path) == ["f"]
