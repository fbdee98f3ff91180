"""Owns HttpChoice: which HTTP version a client uses to reach its relay."""

from enum import Enum


class HttpChoice(Enum):
    """As ``--http`` takes it."""

    AUTO = "auto"
    """HTTP/3; where UDP is blocked HTTP/2, and where that knows no extended CONNECT HTTP/1.1."""
    H3 = "3"
    H2 = "2"
    H1 = "1.1"
