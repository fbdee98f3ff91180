"""Owns the line locator: which line of a TOML text each key path stands on (TOML v1.0.0).

``tomllib`` gives values without places. This scanner walks a text that ``tomllib`` has already
accepted, so it checks nothing; it only follows the structure.
"""

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC_STRING = re.compile(r'"(?:\\.|[^"\\])*"')
_LITERAL_STRING = re.compile(r"'[^']*'")
# The closing delimiter may be preceded by up to two quotes that belong to the string.
_BASIC_BLOCK = re.compile(r'"""(?:\\.|[^\\])*?"""("{0,2})', re.DOTALL)
_LITERAL_BLOCK = re.compile(r"'''.*?'''('{0,2})", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\n#]+")
_PLAIN_VALUE = re.compile(
    "|".join(
        pattern.pattern
        for pattern in (_BASIC_BLOCK, _LITERAL_BLOCK, _BASIC_STRING, _LITERAL_STRING, _SCALAR)
    ),
    re.DOTALL,
)


def format_key_path(path: KeyPath) -> str:
    """Return ``rule[2].targets[0]`` for ``("rule", 2, "targets", 0)``; odd keys in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if _BARE_KEY.fullmatch(part) else f'"{part}"'
            text += f".{word}" if text else word
    return text


class Locator:
    """Knows the line of every key, table and array element of one TOML text."""

    def __init__(self, text: str) -> None:
        """Scan a text that ``tomllib.loads`` accepts."""
        self._text = text.replace("\r\n", "\n")
        self._line_starts = [0]
        self._line_starts += [match.end() for match in re.finditer("\n", self._text)]
        self.lines: dict[KeyPath, int] = {}
        """The line of each key path, counted from 1."""
        self._array_counts: dict[KeyPath, int] = {}
        self._scan()

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key path, or of the nearest table that would hold it."""
        while path:
            found = self.lines.get(path)
            if found is not None:
                return found
            path = path[:-1]
        return None

    def _scan(self) -> None:
        table: KeyPath = ()
        position = self._skip(_BLANK, 0)
        while position < len(self._text):
            if self._text.startswith("[", position):
                table, position = self._header(position)
            else:
                position = self._pair(table, position)
            position = self._skip(_BLANK, position)

    def _header(self, start: int) -> tuple[KeyPath, int]:
        is_array = self._text.startswith("[[", start)
        keys, position = self._key(start + (2 if is_array else 1))
        path = (*self._resolve((), keys[:-1], start), keys[-1])
        self._note(path, start)
        if is_array:
            index = self._array_counts.get(path, 0)
            self._array_counts[path] = index + 1
            path = (*path, index)
            self._note(path, start)
        return path, position + (2 if is_array else 1)

    def _resolve(self, base: KeyPath, keys: list[str], at: int) -> KeyPath:
        """Follow keys from a table; an array of tables means its newest element."""
        path = base
        for key in keys:
            path = (*path, key)
            self._note(path, at)
            count = self._array_counts.get(path)
            if count is not None:
                path = (*path, count - 1)
        return path

    def _pair(self, table: KeyPath, start: int) -> int:
        keys, position = self._key(start)
        path = (*self._resolve(table, keys[:-1], start), keys[-1])
        self._note(path, start)
        position = self._skip(_SPACE, position + 1)  # over the equals sign
        return self._value(path, position)

    def _key(self, start: int) -> tuple[list[str], int]:
        """Read a dotted key; return its parts and the position of what follows it."""
        keys: list[str] = []
        position = start
        while True:
            position = self._skip(_SPACE, position)
            match = (
                _BARE_KEY.match(self._text, position)
                or _BASIC_STRING.match(self._text, position)
                or _LITERAL_STRING.match(self._text, position)
            )
            if match is None:
                raise AssertionError("the text was not valid TOML")
            keys.append(_unquote(match[0]))
            position = self._skip(_SPACE, match.end())
            if not self._text.startswith(".", position):
                return keys, position
            position += 1

    def _value(self, path: KeyPath, start: int) -> int:
        if self._text.startswith("[", start):
            return self._array(path, start)
        if self._text.startswith("{", start):
            return self._inline_table(path, start)
        return self._skip(_PLAIN_VALUE, start)

    def _array(self, path: KeyPath, start: int) -> int:
        position = self._skip(_BLANK, start + 1)
        index = 0
        while not self._text.startswith("]", position):
            element = (*path, index)
            self._note(element, position)
            position = self._skip(_BLANK, self._value(element, position))
            if self._text.startswith(",", position):
                position = self._skip(_BLANK, position + 1)
            index += 1
        return position + 1

    def _inline_table(self, path: KeyPath, start: int) -> int:
        position = self._skip(_BLANK, start + 1)
        while not self._text.startswith("}", position):
            position = self._skip(_BLANK, self._pair(path, position))
            if self._text.startswith(",", position):
                position = self._skip(_BLANK, position + 1)
        return position + 1

    def _skip(self, pattern: re.Pattern[str], position: int) -> int:
        match = pattern.match(self._text, position)
        return position if match is None else match.end()

    def _note(self, path: KeyPath, position: int) -> None:
        # The first mention counts: [a.b] also makes a, unless a was there before.
        self.lines.setdefault(path, bisect_right(self._line_starts, position))


def _unquote(word: str) -> str:
    if word[0] not in "\"'":
        return word
    value: str = tomllib.loads(f"k = {word}")["k"]
    return value
