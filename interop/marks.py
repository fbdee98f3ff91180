"""Owns the ``interop`` mark: which cell of the matrix a test fills.

    @pytest.mark.interop("libcurl", "CONNECT-UDP", "{version}")
    @pytest.mark.interop("Envoy in front", "CONNECT-IP", "3", cannot="it keeps ADDRESS_ASSIGN")

Peer, method, and what carries it: an HTTP version (``3``, ``2``, ``1.1``) or, for TURN, a
transport; its first word counts. ``{name}`` stands for the test's parameter of that name. A test
with ``cannot`` shows by passing that the peer can't, and why.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One place in the matrix."""

    peer: str
    method: str
    over: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one test says about one cell by passing."""

    cell: Cell
    cannot: str
    """Why the peer can't; empty where it can."""


def claims_of(marks: Iterator[object], parameters: Mapping[str, object]) -> Iterator[Claim]:
    """Return what a test's ``interop`` marks say.

    Args:
        marks: of the test; each has ``args`` and ``kwargs``.
        parameters: of the test, where it is parametrized.
    """
    values = {name: _text(value) for name, value in parameters.items()}
    for mark in marks:
        peer, method, over = (
            str(argument).format(**values) for argument in getattr(mark, "args", ())
        )
        cannot = str(getattr(mark, "kwargs", {}).get("cannot", ""))
        over = re.split(r"[ ,]", over.removeprefix("HTTP/"))[0]
        cell = Cell(peer=peer, method=method, over=over)
        yield Claim(cell=cell, cannot=cannot)


def _text(value: object) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)
