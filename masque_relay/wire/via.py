"""Owns ``via`` as a way to see a loop of proxies (RFC 9110 section 7.6.3).

Each relay of a chain adds its pseudonym to what it asks of the next one. A pseudonym is random, so
that it tells nobody anything; ``cdn-loop`` (RFC 8586) carries the same names for those that strip
``via``.
"""

import re
from collections.abc import Iterable, Sequence

_PSEUDONYM = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MEMBER = re.compile(
    r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+/)?[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]+(?P<by>[^\s,()]+)"
)
MAX_VIA_BYTES = 4_096  # far above what any hop cap lets through


def is_pseudonym(text: str) -> bool:
    """Return whether a name can stand in ``via`` and ``cdn-loop``."""
    return _PSEUDONYM.fullmatch(text) is not None


def via_names(headers: Iterable[tuple[bytes, bytes]]) -> list[str] | None:
    """Return by whom a request came, the first proxy first; None where the fields are too long.

    Members that cannot be read count under the empty name: they are hops all the same.
    """
    values = [value for name, value in headers if name == b"via"]
    text = b",".join(values).decode("latin-1")
    if len(text) > MAX_VIA_BYTES:
        return None
    found: list[str] = []
    for member in text.split(","):
        if member.strip():
            match = _MEMBER.match(member.strip())
            found.append("" if match is None else match["by"])
    return found


def loop_names(headers: Iterable[tuple[bytes, bytes]]) -> set[str]:
    """Return the names in ``cdn-loop``, without their parameters (RFC 8586 section 2)."""
    values = [value for name, value in headers if name == b"cdn-loop"]
    text = b",".join(values).decode("latin-1")[:MAX_VIA_BYTES]
    return {member.partition(";")[0].strip() for member in text.split(",")} - {""}


def chain_fields(
    headers: Sequence[tuple[bytes, bytes]], pseudonym: str, *, http_version: str
) -> list[tuple[bytes, bytes]]:
    """Return ``via`` and ``cdn-loop`` for the next hop: what came, and ourselves.

    Args:
        headers: of the request that came.
        pseudonym: our own name.
        http_version: of the request that came, as in ``2`` or ``1.1``.
    """
    fields: list[tuple[bytes, bytes]] = []
    for name, own in ((b"via", f"{http_version} {pseudonym}"), (b"cdn-loop", pseudonym)):
        came = [value for field, value in headers if field == name]
        fields.append((name, b", ".join([*came, own.encode("ascii")])))
    return fields
