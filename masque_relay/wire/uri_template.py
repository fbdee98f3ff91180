"""Owns URI Templates as MASQUE uses them (RFC 6570 up to level 3, RFC 9298 section 2).

A template is matched against the path and query as they stand on the wire, **before** any
percent-decoding: a decoded ``%2F`` would otherwise move the borders between the variables.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote

from masque_relay.wire.errors import WireError

_SECTION = "RFC 9298 section 2"
_EXPRESSION = re.compile(r"\{([?&]?)([A-Za-z0-9_]+(?:,[A-Za-z0-9_]+)*)\}", re.ASCII)
# Reserved characters: expansion percent-encodes them in values, so they end a value for certain.
_DELIMITERS = frozenset("/?#[]@!$&'()*+,;=:")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_ORIGIN = re.compile(r"https://([^/?#{}]+)(?=[/?{])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expression:
    """``{a,b}``, ``{?a,b}`` or ``{&a,b}``."""

    operator: str
    names: tuple[str, ...]


_Part = str | _Expression


class UriTemplate:
    """A parsed template; immutable. Make one with :meth:`parse`."""

    __slots__ = ("_authority", "_parts", "_pattern", "_text", "_variables")

    def __init__(
        self,
        *,
        text: str,
        authority: str | None,
        parts: tuple[_Part, ...],
        pattern: re.Pattern[bytes],
    ) -> None:
        self._text = text
        self._authority = authority
        self._parts = parts
        self._pattern = pattern
        self._variables = tuple(_names(parts))

    @classmethod
    def parse(cls, text: str, *, required: Collection[str] = ()) -> "UriTemplate":
        """Read a template: an absolute path, or a whole ``https`` URL.

        Args:
            text: the template.
            required: variables that it must have, such as ``target_host`` and ``target_port``.

        Raises:
            WireError: bad syntax, an operator that RFC 9298 section 2 forbids, a required variable
                missing, or two values with nothing between them that tells where the first ends.
        """
        if not all(0x21 <= ord(character) <= 0x7E for character in text):
            raise WireError("a template is printable ASCII without spaces", section=_SECTION)
        origin = _ORIGIN.match(text)
        local = text[origin.end() :] if origin else text
        if not local.startswith("/"):
            raise WireError(
                "a template is a path that starts with / or an https URL with a path",
                section=_SECTION,
            )
        parts = _split(local)
        names = _names(parts)
        if len(set(names)) != len(names):
            raise WireError("a template variable occurs twice", section=_SECTION)
        if missing := sorted(set(required) - set(names)):
            raise WireError(f"the template lacks {', '.join(missing)}", section=_SECTION)
        return cls(
            text=text,
            authority=origin[1] if origin else None,
            parts=parts,
            pattern=_compile(parts),
        )

    @property
    def variables(self) -> tuple[str, ...]:
        """The names, in the order in which they occur."""
        return self._variables

    @property
    def authority(self) -> str | None:
        """Host and port of a whole URL; None when the template is a path."""
        return self._authority

    def __str__(self) -> str:
        """Return the template as it was written."""
        return self._text

    def match(self, raw_path: bytes) -> Mapping[str, str] | None:
        """Return the decoded variables of an undecoded path and query; None if it is another path.

        A slash at the end of the path may be there or be missing, whichever the template has.
        Every variable has to be present; it may be empty.

        Raises:
            WireError: it is this template's path, but a value has bad percent-encoding, is not
                UTF-8, or holds control characters.
        """
        found = self._pattern.fullmatch(raw_path)
        if found is None:
            return None
        values = {
            name: _decode_value(value)
            for name, value in zip(self._variables, found.groups(), strict=True)
        }
        return MappingProxyType(values)

    def expand(self, variables: Mapping[str, str]) -> str:
        """Return the URL (or the path, when the template is one) with the variables filled in.

        Everything but unreserved characters is percent-encoded; an IPv6 address gets ``%3A``.

        Raises:
            KeyError: a variable has no value; a bug of the caller.
        """
        path = self.expand_path(variables)
        return path if self._authority is None else f"https://{self._authority}{path}"

    def expand_path(self, variables: Mapping[str, str]) -> str:
        """Return only path and query, as ``:path`` has them.

        Raises:
            KeyError: a variable has no value; a bug of the caller.
        """
        return "".join(
            part if isinstance(part, str) else _expand(part, variables) for part in self._parts
        )


def _split(text: str) -> tuple[_Part, ...]:
    """Cut path and query into literals and expressions."""
    parts: list[_Part] = []
    end = 0
    for found in _EXPRESSION.finditer(text):
        if found.start() > end:
            parts.append(text[end : found.start()])
        parts.append(_Expression(operator=found[1], names=tuple(found[2].split(","))))
        end = found.end()
    if end < len(text):
        parts.append(text[end:])
    for literal in parts:
        if isinstance(literal, str) and not set(literal).isdisjoint('{}#"<>\\^`|'):
            # Also what is left of expressions with an operator that section 2 forbids.
            raise WireError(f"template has {literal[:64]!r}", section=_SECTION)
    return tuple(parts)


def _names(parts: tuple[_Part, ...]) -> list[str]:
    return [name for part in parts if isinstance(part, _Expression) for name in part.names]


def _compile(parts: tuple[_Part, ...]) -> re.Pattern[bytes]:
    """Return the pattern for the bytes on the wire.

    A value's character class leaves out the character that ends it, so matching is linear.
    """
    pattern: list[str] = []
    in_query = False
    for index, part in enumerate(parts):
        following = parts[index + 1] if index + 1 < len(parts) else None
        if isinstance(part, str):
            pattern.append(_literal_pattern(part, in_query=in_query, following=following))
            in_query = in_query or "?" in part
        else:
            pattern.append(_expression_pattern(part, in_query=in_query, following=following))
            in_query = in_query or part.operator == "?"
            if not in_query and _ends_path(following):
                pattern.append("/?")
    # The lookahead: a path has its first slash even where the template is nothing but that slash.
    return re.compile(("(?=/)" + "".join(pattern)).encode("ascii"))


def _ends_path(following: _Part | None) -> bool:
    return following is None or (isinstance(following, _Expression) and following.operator == "?")


def _literal_pattern(literal: str, *, in_query: bool, following: _Part | None) -> str:
    if in_query:
        return re.escape(literal)
    path, question, query = literal.partition("?")
    if question or _ends_path(following):
        # The path ends here: with or without its last slash.
        path_pattern = re.escape(path.removesuffix("/")) + "/?"
    else:
        path_pattern = re.escape(path)
    return path_pattern + (re.escape(question + query) if question else "")


def _expression_pattern(expression: _Expression, *, in_query: bool, following: _Part | None) -> str:
    operator = expression.operator
    if operator and (operator == "?") == in_query:
        raise WireError("{?...} begins a query and {&...} goes on with one", section=_SECTION)
    if isinstance(following, str):
        delimiter = following[0]
    elif following is None:
        delimiter = ""
    else:
        delimiter = following.operator
        if not delimiter:
            raise WireError("two template variables without a border", section=_SECTION)
    if delimiter and delimiter not in _DELIMITERS:
        raise WireError(
            f"nothing tells where the variable before {delimiter!r} ends", section=_SECTION
        )
    excluded = "&#" if operator or in_query else "/?#"
    separator = "&" if operator else ","
    excluded += delimiter + (separator if len(expression.names) > 1 else "")
    value = f"([^{re.escape(excluded)}]*)"
    if not operator:
        return separator.join([value] * len(expression.names))
    pairs = separator.join(f"{re.escape(name)}={value}" for name in expression.names)
    return re.escape(operator) + pairs


def _expand(expression: _Expression, variables: Mapping[str, str]) -> str:
    values = [(name, quote(variables[name], safe="")) for name in expression.names]
    if not expression.operator:
        return ",".join(value for _, value in values)
    return expression.operator + "&".join(f"{name}={value}" for name, value in values)


def _decode_value(raw: bytes) -> str:
    if _BAD_PERCENT.search(raw):
        raise WireError("bad percent-encoding in the path", section="RFC 3986 section 2.1")
    decoded = _PERCENT.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), raw)
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError("the path is not UTF-8", section="RFC 6570 section 3.2.1") from error
    if any(character < " " or character == "\x7f" for character in text):
        raise WireError("control character in the path", section=_SECTION)
    return text
