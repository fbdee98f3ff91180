"""Owns the ready file: JSON that appears, whole, once the relay serves: scripts can wait for it."""

import os
from contextlib import suppress
from pathlib import Path

import orjson

from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.server.source import RelayFiles


def write_ready_files(
    files: RelayFiles, *, h3: str, admin: str, admin_token_file: str, https: str | None = None
) -> None:
    """Write the files atomically: a reader sees all of one, or none.

    Raises:
        ConfigError: it can't be written.
    """
    value: dict[str, str | int] = {
        "h3": h3,
        "admin": admin,
        "admin_token_file": admin_token_file,
        "pid": os.getpid(),
    }
    if https is not None:
        value["https"] = https
    for key, path in (("ca_file", files.ca_file), ("token_file", files.token_file)):
        if path is not None:
            value[key] = str(path.absolute())
    if files.admin_url_file is not None:
        _write(files.admin_url_file, admin.encode() + b"\n")
    if files.ready_file is not None:
        _write(files.ready_file, orjson.dumps(value) + b"\n")


def remove_ready_files(files: RelayFiles) -> None:
    """Remove them, so that nobody takes an old one for ours. A missing one is fine."""
    for path in (files.ready_file, files.admin_url_file):
        if path is not None:
            with suppress(OSError):
                path.unlink()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Made afresh: in a shared directory somebody may have laid a link under this name.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            [Problem(file=str(path), detail=f"the ready file can't be written: {error.strerror}")]
        ) from error
