"""Owns the journal of a split tunnel: what a crash would leave changed on this machine.

Device, addresses and routes vanish with the process. What does not is written here first, and taken
back from here: at a clean end, at the next start, or by ``ghostctl tunnel ip --undo``.
"""

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

DIRECTORY = Path("/run/ghostwire-tunnel")
"""Not the relay's own: its user may be another, and what stands here is written by root."""


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """A file that was rewritten."""

    path: str
    before: str
    """What it held."""
    written: str
    """What we wrote: anything else there now is somebody else's, and stays."""
    pid: int
    """Of the process that wrote it."""


class Journal:
    """At most one changed file in each network namespace."""

    def __init__(self, *, directory: Path = DIRECTORY) -> None:
        # /run is shared by network namespaces.
        namespace = Path("/proc/self/ns/net").stat().st_ino
        self.path = directory / f"tunnel-{namespace}.json"

    def write(self, change: ChangedFile) -> None:
        """Note what is about to be changed.

        Raises:
            OSError: the journal cannot be written; then nothing may be changed.
        """
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        with os.fdopen(os.open(beside, _CREATE, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(change), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def read(self) -> ChangedFile | None:
        """Return what was changed and not taken back; None if nothing, or if unreadable."""
        try:
            if not (_is_trusted(self.path.parent) and _is_trusted(self.path)):
                return None
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return _change_from(content)

    def undo(self) -> bool:
        """Take a change back and forget it; return whether there was one. Idempotent."""
        change = self.read()
        if change is not None:
            _restore(change)
        self.path.unlink(missing_ok=True)
        return change is not None

    def is_of_live_process(self) -> bool:
        """Return whether whoever wrote the journal still runs: then it is not ours to undo."""
        change = self.read()
        if change is None or change.pid == os.getpid():
            return False
        try:
            os.kill(change.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def _is_trusted(path: Path) -> bool:
    """Whether nobody but us or root may have written it: it says what root is to write where."""
    found = path.lstat()
    is_ours = found.st_uid in {0, os.geteuid()}
    return is_ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _change_from(content: object) -> ChangedFile | None:
    if not isinstance(content, dict):
        return None
    values = cast("dict[str, object]", content)
    path, before, written, pid = (values.get(name) for name in ("path", "before", "written", "pid"))
    if not isinstance(path, str) or not isinstance(before, str):
        return None
    if not isinstance(written, str) or not isinstance(pid, int):
        return None
    return ChangedFile(path=path, before=before, written=written, pid=pid)


def _restore(change: ChangedFile) -> None:
    path = Path(change.path)
    try:
        if path.read_text(encoding="utf-8") == change.written:
            # In place: the file may be a bind mount, which cannot be replaced.
            path.write_text(change.before, encoding="utf-8")
    except OSError:
        return
