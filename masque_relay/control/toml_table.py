"""Owns the strict reading of TOML tables: every problem collected, with file, line and key path."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.toml_locate import KeyPath, Locator, format_key_path

MAX_FILE_BYTES = 8 * 1024 * 1024  # a hundred thousand targets; bounds what a reload reads

_SYNTAX_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


class TomlSource:
    """One TOML file while it is read: its root table, and the problems found so far."""

    def __init__(self, text: str, *, file: str) -> None:
        """Parse the text.

        Raises:
            ConfigError: it is not TOML.
        """
        self.file = file
        self.text = text
        self.problems: list[Problem] = []
        try:
            document: dict[str, object] = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError([_syntax_problem(file, error)]) from error
        self._locator = Locator(text)
        self.root = TomlTable(self, document, ())

    @classmethod
    def open(cls, path: Path) -> "TomlSource":
        """Read and parse a file.

        Raises:
            ConfigError: it can't be read, is too large or is not TOML.
        """
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ConfigError(
                    [Problem(file=str(path), detail=f"larger than {MAX_FILE_BYTES} bytes")]
                )
            return cls(data.decode("utf-8"), file=str(path))
        except OSError as error:
            detail = f"can't be read: {error.strerror or error}"
            raise ConfigError([Problem(file=str(path), detail=detail)]) from error
        except UnicodeDecodeError as error:
            raise ConfigError([Problem(file=str(path), detail="not UTF-8")]) from error

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key path."""
        return self._locator.line(path)

    def report(self, path: KeyPath, detail: str, hint: str | None = None) -> None:
        """Note a problem at a key path."""
        self.problems.append(
            Problem(
                file=self.file,
                line=self.line(path),
                key_path=format_key_path(path),
                detail=detail,
                hint=hint,
            )
        )

    def raise_problems(self) -> None:
        """Raise what was noted, in line order.

        Raises:
            ConfigError: there was any problem.
        """
        if self.problems:
            raise ConfigError(sorted(self.problems, key=lambda problem: problem.line or 0))


class TomlTable:
    """A table that is read key by key; :meth:`finish` reports the keys nobody asked for."""

    def __init__(self, source: TomlSource, values: dict[str, object], path: KeyPath) -> None:
        self._source = source
        self._values = values
        self._known: set[str] = set()
        self.path = path

    def problem(
        self, detail: str, key: str | int | None = None, *, hint: str | None = None
    ) -> None:
        """Note a problem with a key of this table, or with the table itself."""
        self._source.report(self.path if key is None else (*self.path, key), detail, hint)

    def problem_at(self, path: KeyPath, detail: str, *, hint: str | None = None) -> None:
        """Note a problem at a path below this table."""
        self._source.report((*self.path, *path), detail, hint)

    def line(self) -> int | None:
        """Return the line on which this table begins."""
        return self._source.line(self.path)

    def has(self, key: str) -> bool:
        """Return whether the key is there."""
        return key in self._values

    def names(self) -> tuple[str, ...]:
        """Return the keys in file order."""
        return tuple(self._values)

    def text(self, key: str, *, required: bool = False) -> str | None:
        """Return a non-empty string, or None if it is absent or wrong (then it is reported)."""
        value = self._take(key, required=required)
        if value is None:
            return None
        if isinstance(value, str) and value:
            return value
        self.problem(f"must be a non-empty string, not {_shown(value)}", key)
        return None

    def word(self, key: str, words: Iterable[str], *, required: bool = False) -> str | None:
        """Return one of the given words, or None if it is absent or wrong."""
        value = self.text(key, required=required)
        choice = list(words)
        if value is None or value in choice:
            return value
        self.problem(
            f"{value!r} is not one of {', '.join(choice)}", key, hint=did_you_mean(value, choice)
        )
        return None

    def texts(self, key: str, *, required: bool = False) -> list[tuple[int, str]]:
        """Return the non-empty strings of a list, each with its index. Empty lists are reported."""
        value = self._take(key, required=required)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(f"must be a list of strings, not {_shown(value)}", key)
            return []
        items = cast("list[object]", value)
        if not items:
            self.problem("must not be an empty list", key)
        found: list[tuple[int, str]] = []
        for index, item in enumerate(items):
            if isinstance(item, str) and item:
                found.append((index, item))
            else:
                self.problem_at((key, index), f"must be a non-empty string, not {_shown(item)}")
        return found

    def integer(self, key: str, *, minimum: int) -> int | None:
        """Return a whole number, or None if it is absent or wrong."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        self.problem(f"must be a whole number of at least {minimum}, not {_shown(value)}", key)
        return None

    def seconds(self, key: str) -> float | None:
        """Return a positive number, or None if it is absent or wrong."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12:
            return float(value)
        self.problem(f"must be a positive number of seconds, not {_shown(value)}", key)
        return None

    def instant(self, key: str) -> float | None:
        """Return a date-time with offset as seconds since the epoch, or None."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.timestamp()
        hint = "write it like 2026-01-31T08:00:00Z"
        self.problem(f"must be a date-time with offset, not {_shown(value)}", key, hint=hint)
        return None

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return true or false; the default if it is absent or wrong."""
        value = self._take(key)
        if isinstance(value, bool):
            return value
        if value is not None:
            self.problem(f"must be true or false, not {_shown(value)}", key)
        return default

    def table(self, key: str) -> "TomlTable | None":
        """Return a table, or None if it is absent or wrong."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, dict):
            return TomlTable(self._source, cast("dict[str, object]", value), (*self.path, key))
        self.problem(f"must be a table, not {_shown(value)}", key)
        return None

    def named_tables(self, key: str) -> "list[tuple[str, TomlTable]]":
        """Return the tables of ``[key.NAME]`` in file order."""
        parent = self.table(key)
        if parent is None:
            return []
        found: list[tuple[str, TomlTable]] = []
        for name in parent.names():
            child = parent.table(name)
            if child is not None:
                found.append((name, child))
        return found

    def tables(self, key: str) -> "list[TomlTable]":
        """Return the tables of ``[[key]]`` in file order."""
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(f"must be written as [[{key}]], not {_shown(value)}", key)
            return []
        found: list[TomlTable] = []
        for index, item in enumerate(cast("list[object]", value)):
            if isinstance(item, dict):
                values = cast("dict[str, object]", item)
                found.append(TomlTable(self._source, values, (*self.path, key, index)))
            else:
                self.problem_at((key, index), f"must be a table, not {_shown(item)}")
        return found

    def finish(self) -> None:
        """Report every key that was not asked for."""
        for key in self._values:
            if key not in self._known:
                known = sorted(self._known)
                hint = did_you_mean(key, known) or f"known keys: {', '.join(known)}"
                self.problem("unknown key", key, hint=hint)

    def _take(self, key: str, *, required: bool = False) -> object | None:
        self._known.add(key)
        value = self._values.get(key)
        if value is None and required:
            self.problem(f"{key} is missing")
        return value


def did_you_mean(word: str, choice: Sequence[str]) -> str | None:
    """Return a hint that names the nearest of the known words, or None."""
    near = difflib.get_close_matches(word.lower(), choice, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else None


def _shown(value: object) -> str:
    """Return what a person sees of a wrong value; never its content, which may be a secret."""
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number" if value >= 0 else "a negative number"
        case str():
            return "a string" if value else "an empty string"
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _syntax_problem(file: str, error: Exception) -> Problem:
    text = str(error)
    match = _SYNTAX_PLACE.search(text)
    if match is None:
        return Problem(file=file, detail=f"not TOML: {text or type(error).__name__}")
    return Problem(file=file, line=int(match[1]), detail=f"not TOML: {text[: match.start()]}")
