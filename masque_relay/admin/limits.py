"""Owns what the admin plane allows: sizes, deadlines and who may name it in a Host header."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminLimits:
    """The admin listener's caps."""

    body_bytes: int = 16_384
    """Largest request body; every request of this API is a few short strings."""
    body_timeout_s: float = 10.0
    """How long a body may take to arrive, so that a slow writer holds nothing."""
    keep_alive_timeout_s: float = 5.0
    """An idle connection is closed after that. hypercorn holds on so long to one that its client
    has closed as well, so this also bounds how many descriptors a busy scraper leaves behind."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that may appear in Host besides literal addresses and localhost. Anything else is
    refused, because a web page can point a name of its own at 127.0.0.1 (DNS rebinding)."""
    metrics_need_token: bool = False
    """Whether /metrics asks for the admin token too; there are no identities in it."""
