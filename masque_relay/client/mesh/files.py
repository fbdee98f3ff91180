"""Owns sending and receiving files between peers: whole and checked, or not at all."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from masque_relay.client.byte_stream import READ_BYTES
from masque_relay.client.errors import PeerRefused
from masque_relay.client.mesh.peer_stream import PeerStream

SERVICE = b"inbox"
MAX_NAME_BYTES = 255
"""What Linux takes."""

_LENGTH_BYTES = 2
_SIZE_BYTES = 8
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A file that came, whole."""

    path: Path
    size_bytes: int
    sender: bytes


async def receive_file(directory: Path, sender: bytes, stream: PeerStream) -> ReceivedFile:
    """Take one file into a directory; it has its name only once it is whole.

    The stream has ``name length u16, name, size u64``, the bytes, and their SHA-256; the answer is
    one byte, 0 for "taken". A file that exists is not overwritten.

    Raises:
        PeerRefused: the name is no plain file name, or the digest is not the file's.
        ClientError: the stream broke off.
        OSError: the disk.
    """
    reader = _ExactReader(stream)
    name = (await reader.take(int.from_bytes(await reader.take(_LENGTH_BYTES), "big"))).decode()
    if not _is_plain_name(name):
        stream.abort()
        raise PeerRefused(f"{name!r} is no file name")
    size_bytes = int.from_bytes(await reader.take(_SIZE_BYTES), "big")
    path = _free_path(directory / name)
    beside = path.with_name(path.name + ".part")
    digest = hashlib.sha256()
    output = beside.open("xb")  # raises, and removes nothing, where another transfer has it
    try:
        with output:
            left_bytes = size_bytes
            while left_bytes:
                data = await reader.take_some(min(left_bytes, READ_BYTES))
                digest.update(data)
                output.write(data)
                left_bytes -= len(data)
        if await reader.take(_DIGEST_BYTES) != digest.digest():
            stream.abort()
            raise PeerRefused(f"{name}: what arrived is not what was sent")
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    await stream.write(b"\0")
    stream.write_eof()
    return ReceivedFile(path=path, size_bytes=size_bytes, sender=sender)


async def send_file(path: Path, stream: PeerStream, progress: Callable[[int], None]) -> None:
    """Send one file, and wait until the other peer says that it has it.

    Args:
        path: a regular file.
        stream: to the other peer's inbox.
        progress: told of every piece that was handed over.

    Raises:
        PeerRefused: the other peer did not take it.
        ClientError: the stream broke off.
        OSError: the file can't be read.
    """
    name = path.name.encode()
    digest = hashlib.sha256()
    with path.open("rb") as source:
        size_bytes = os.fstat(source.fileno()).st_size
        head = len(name).to_bytes(_LENGTH_BYTES, "big") + name
        await stream.write(head + size_bytes.to_bytes(_SIZE_BYTES, "big"))
        left_bytes = size_bytes
        while left_bytes:
            data = source.read(min(left_bytes, READ_BYTES))
            if not data:
                raise PeerRefused(f"{path}: became shorter while it was sent")
            digest.update(data)
            await stream.write(data)
            left_bytes -= len(data)
            progress(len(data))
    await stream.write(digest.digest())
    stream.write_eof()
    if await stream.read() != b"\0":
        raise PeerRefused("the other peer did not take the file")


class _ExactReader:
    """Takes exactly so many bytes from a stream."""

    def __init__(self, stream: PeerStream) -> None:
        self._stream = stream
        self._held = b""

    async def take(self, byte_count: int) -> bytes:
        taken = bytearray()
        while len(taken) < byte_count:
            taken += await self.take_some(byte_count - len(taken))
        return bytes(taken)

    async def take_some(self, max_bytes: int) -> bytes:
        if not self._held:
            self._held = await self._stream.read()
            if not self._held:
                raise PeerRefused("the sender stopped in the middle")
        taken, self._held = self._held[:max_bytes], self._held[max_bytes:]
        return taken


def _is_plain_name(name: str) -> bool:
    """Whether a name stays in its directory, and shows what it is."""
    return (
        0 < len(name.encode()) <= MAX_NAME_BYTES
        and name not in {".", ".."}
        and "/" not in name
        and name.isprintable()
    )


def _free_path(path: Path) -> Path:
    """Return the path, or one with a number where the file exists."""
    number = 1
    free = path
    while free.exists():
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return free
