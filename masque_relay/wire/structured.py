"""Owns the structured field values that MASQUE needs (RFC 9651): items, parameters, lists of items.

Inner lists and dictionaries are not read: no field that this project looks at has them. A field
that breaks the grammar is to be ignored as a whole (RFC 9651 section 4.2); callers do that when
they catch the WireError.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from masque_relay.wire.errors import WireError

_SECTION = "RFC 9651 section 4.2"
_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*", re.ASCII)
_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_DISPLAY_STRING = re.compile(r'%"((?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*)"')
_DECIMAL = re.compile(r"-?[0-9]{1,12}\.[0-9]{1,3}(?![0-9.])", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,15}(?![0-9.])", re.ASCII)
_DATE = re.compile(r"@(-?[0-9]{1,15})(?![0-9.])", re.ASCII)
_BINARY = re.compile(r":([A-Za-z0-9+/=]*):", re.ASCII)
_BOOLEAN = re.compile(r"\?([01])", re.ASCII)
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_PERCENT = re.compile(rb"%([0-9a-f]{2})")


class Token(str):
    """A bare word, as apart from a quoted string."""

    __slots__ = ()


class Date(int):
    """Seconds since the epoch, as apart from a plain integer."""

    __slots__ = ()


BareItem = bool | int | float | bytes | str
"""Token and Date are a str and an int of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A bare item and its parameters."""

    value: BareItem
    parameters: Mapping[str, BareItem]


def parse_item(text: str) -> Item:
    """Return the only item of a field value.

    Raises:
        WireError: not one item.
    """
    stripped = text.strip(" ")
    item, offset = _read_item(stripped, 0)
    if offset != len(stripped):
        raise _bad("text after the item")
    return item


def parse_list(text: str) -> tuple[Item, ...]:
    """Return the items of a list; several field lines are to be joined with a comma before.

    Raises:
        WireError: not a list of items (inner lists count as such an error here).
    """
    stripped = text.strip(" ")
    items: list[Item] = []
    offset = 0
    while offset < len(stripped):
        item, offset = _read_item(stripped, offset)
        items.append(item)
        if offset == len(stripped):
            break
        comma = _COMMA.match(stripped, offset)
        if comma is None or comma.end() == len(stripped):
            raise _bad("list without a comma, or with one at its end")
        offset = comma.end()
    return tuple(items)


def parse_boolean(field_value: str) -> bool | None:
    """Return a boolean item, whatever its parameters; None for another type or a broken field.

    This is how ``Capsule-Protocol`` is read (RFC 9297 section 3.4).
    """
    try:
        value = parse_item(field_value).value
    except WireError:
        return None
    return value if isinstance(value, bool) else None


def serialize_string(text: str) -> str:
    """Return a quoted string.

    Raises:
        ValueError: a character is not printable ASCII; a bug of the caller.
    """
    if not all(" " <= character <= "~" for character in text):
        message = "a structured string is printable ASCII"
        raise ValueError(message)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def serialize_token(text: str) -> str:
    """Return a token.

    Raises:
        ValueError: not a token; a bug of the caller.
    """
    if not _TOKEN.fullmatch(text):
        message = f"{text!r} is not a token"
        raise ValueError(message)
    return text


def _bad(detail: str) -> WireError:
    return WireError(f"structured field: {detail}", section=_SECTION)


def _read_item(text: str, offset: int) -> tuple[Item, int]:
    value, offset = _read_bare_item(text, offset)
    parameters: dict[str, BareItem] = {}
    while text.startswith(";", offset):
        offset += 1
        while text.startswith(" ", offset):
            offset += 1
        key = _KEY.match(text, offset)
        if key is None:
            raise _bad("parameter without a key")
        offset = key.end()
        parameter: BareItem = True  # RFC 9651 section 4.2.3.2: a key alone means true
        if text.startswith("=", offset):
            parameter, offset = _read_bare_item(text, offset + 1)
        parameters[key[0]] = parameter
    return Item(value=value, parameters=MappingProxyType(parameters)), offset


def _read_bare_item(text: str, offset: int) -> tuple[BareItem, int]:
    if found := _STRING.match(text, offset):
        return re.sub(r'\\(["\\])', r"\1", found[1]), found.end()
    if found := _TOKEN.match(text, offset):
        return Token(found[0]), found.end()
    if found := _BOOLEAN.match(text, offset):
        return found[1] == "1", found.end()
    if found := _DECIMAL.match(text, offset):
        return float(found[0]), found.end()
    if found := _INTEGER.match(text, offset):
        return int(found[0]), found.end()
    return _read_rare_item(text, offset)


def _read_rare_item(text: str, offset: int) -> tuple[BareItem, int]:
    if found := _DATE.match(text, offset):
        return Date(found[1]), found.end()
    try:
        if found := _BINARY.match(text, offset):
            return b64decode(found[1], validate=True), found.end()
        if found := _DISPLAY_STRING.match(text, offset):
            encoded = found[1].encode("ascii")
            raw = _PERCENT.sub(lambda code: bytes.fromhex(code[1].decode("ascii")), encoded)
            return raw.decode("utf-8"), found.end()
    except (Base64Error, UnicodeDecodeError) as error:
        raise _bad("bad byte sequence or display string") from error
    raise _bad("no item where one has to be")
