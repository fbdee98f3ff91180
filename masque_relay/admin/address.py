"""Owns where an admin listener may be: an endpoint or a Unix socket."""

from dataclasses import dataclass
from pathlib import Path

from masque_relay.contract.address import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSocket:
    """A Unix socket path; created with mode 0600."""

    path: Path

    def __str__(self) -> str:
        """Return ``unix:PATH``."""
        return f"unix:{self.path}"


def admin_url(where: Endpoint | UnixSocket) -> str:
    """Return ``http://ADDR:PORT`` or ``unix:PATH``, as `ghostctl relay --admin` takes it."""
    return str(where) if isinstance(where, UnixSocket) else f"http://{where}"
