"""Owns the revocation list: subjects and token ids that count no longer, kept over restarts."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast

import orjson

from masque_relay.contract.errors import ConfigError, Problem


class RevocationError(Exception):
    """A revocation could not be kept in the file, or the list is full."""


class RevocationList:
    """Revoked subjects (until they are reinstated) and token ids (until the tokens expire)."""

    def __init__(self, *, file: Path | None = None, max_entries: int) -> None:
        """Read the file, if there is one.

        Raises:
            ConfigError: the file can't be read or is not ours.
        """
        self._file = file
        self._max_entries = max_entries
        self._subjects: set[str] = set()
        self._token_ids: dict[str, float] = {}
        if file is not None and file.exists():
            self._read(file)

    def __len__(self) -> int:
        return len(self._subjects) + len(self._token_ids)

    def holds(self, *, subject: str, token_id: str | None) -> bool:
        """Return whether a subject or token id is revoked."""
        return subject in self._subjects or (token_id is not None and token_id in self._token_ids)

    def revoke(
        self, *, subject: str | None, token_id: str | None, until_s: float, now_s: float
    ) -> None:
        """Revoke from now on; a token id until ``until_s``, seconds since the epoch.

        Raises:
            RevocationError: the list is full (then it is not in force), or it is in force but the
                file can't be written.
        """
        self._forget_expired(now_s)
        new_subject = subject is not None and subject not in self._subjects
        new_token_id = token_id is not None and token_id not in self._token_ids
        if len(self) + new_subject + new_token_id > self._max_entries:
            raise RevocationError(f"the revocation list is full ({self._max_entries} entries)")
        if subject is not None:
            self._subjects.add(subject)
        if token_id is not None:
            self._token_ids[token_id] = max(until_s, self._token_ids.get(token_id, 0.0))
        self._write()

    def reinstate(self, subject: str) -> bool:
        """Take a subject off the list; False if it was not there.

        Raises:
            RevocationError: the file can't be written.
        """
        if subject not in self._subjects:
            return False
        self._subjects.discard(subject)
        self._write()
        return True

    def document(self) -> dict[str, object]:
        """Return the list as the file has it."""
        return {"subjects": sorted(self._subjects), "token_ids": self._token_ids}

    @classmethod
    def from_document(cls, document: object, *, max_entries: int) -> Self:
        """Return a list in memory with what :meth:`document` gave.

        Raises:
            ValueError: it is something else.
        """
        revocations = cls(max_entries=max_entries)
        revocations._take(document)
        return revocations

    def _forget_expired(self, now_s: float) -> None:
        expired = [token_id for token_id, until_s in self._token_ids.items() if until_s <= now_s]
        for token_id in expired:
            del self._token_ids[token_id]

    def _read(self, file: Path) -> None:
        try:
            document: object = orjson.loads(file.read_bytes())
        except OSError as error:
            detail = f"can't be read: {error.strerror or error}"
            raise ConfigError([Problem(file=str(file), detail=detail)]) from error
        except orjson.JSONDecodeError as error:
            raise ConfigError([Problem(file=str(file), detail=f"not JSON: {error}")]) from error
        try:
            self._take(document)
        except ValueError as error:
            raise ConfigError([Problem(file=str(file), detail=str(error))]) from error

    def _take(self, document: object) -> None:
        try:
            members = cast("Mapping[str, object]", document)
            subjects = cast("list[object]", members["subjects"])
            token_ids = cast("Mapping[object, object]", members["token_ids"])
            self._subjects = {str(subject) for subject in subjects}
            self._token_ids = {
                str(token_id): float(cast("float", until_s))
                for token_id, until_s in token_ids.items()
            }
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            detail = "not a revocation list: needs subjects (a list) and token_ids (id to expiry)"
            raise ValueError(detail) from error

    def _write(self) -> None:
        """Replace the file as a whole, so that a crash leaves the old or the new list."""
        if self._file is None:
            return
        data = orjson.dumps(self.document(), option=orjson.OPT_INDENT_2)
        temporary: str | None = None
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=".revocations-")
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(self._file)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            detail = f"in force, but {self._file} can't be written: {error.strerror or error}"
            raise RevocationError(detail) from error
