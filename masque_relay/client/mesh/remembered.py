"""Owns what worked where: the way to a relay per network, in a file of the user's."""

import hashlib
import hmac
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from masque_relay.client.mesh.way import WayKind

MAX_NETWORKS = 64
MAX_FILE_BYTES = 65_536
SALT_BYTES = 16


def default_file() -> Path:
    """Return where the memory is: below XDG_STATE_HOME."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "ghostwire" / "ways.json"


@dataclass(frozen=True, slots=True)
class _Entry:
    way: WayKind
    used_s: int


class WayMemory:
    """Which way worked in which network, the last 64 of them.

    The file has no address in it: networks are named by a keyed hash. A file that cannot be read,
    or has something else in it, is one that remembers nothing; one that cannot be written is left
    alone. Neither is worth stopping for.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def recall(self, network: str) -> WayKind | None:
        """Return what worked in a network the last time."""
        salt, entries = self._read()
        entry = entries.get(_name(salt, network))
        return None if entry is None else entry.way

    def remember(self, network: str, way: WayKind) -> None:
        """Keep what works in a network; the one that was used longest ago is forgotten."""
        salt, entries = self._read()
        entries[_name(salt, network)] = _Entry(way, int(time.time()))
        newest = sorted(entries.items(), key=lambda item: item[1].used_s)[-MAX_NETWORKS:]
        document = {
            "salt": salt.hex(),
            "networks": {name: {"way": e.way, "used_s": e.used_s} for name, e in newest},
        }
        with suppress(OSError):
            self._write(orjson.dumps(document))

    def _read(self) -> tuple[bytes, dict[str, _Entry]]:
        try:
            with self._file.open("rb") as file:
                document: Any = orjson.loads(file.read(MAX_FILE_BYTES))
            salt = bytes.fromhex(document["salt"])
            entries = {
                str(name): _Entry(WayKind(value["way"]), int(value["used_s"]))
                for name, value in document["networks"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return secrets.token_bytes(SALT_BYTES), {}
        return salt, entries

    def _write(self, content: bytes) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        beside.replace(self._file)


def _name(salt: bytes, network: str) -> str:
    return hmac.new(salt, network.encode(), hashlib.sha256).hexdigest()
