"""Owns the admin listener: a TCP or Unix socket, served by hypercorn's public API."""

import asyncio
import logging
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import cast

from hypercorn.asyncio import (
    serve,  # pyright: ignore[reportUnknownVariableType]  # its WSGI half has bare dicts
)
from hypercorn.config import Config
from hypercorn.typing import (
    Framework,  # pyright: ignore[reportUnknownVariableType]  # its WSGI half has bare dicts
)
from starlette.types import ASGIApp

from masque_relay.admin.address import UnixSocket, admin_url
from masque_relay.admin.limits import AdminLimits
from masque_relay.contract.address import Endpoint

logger = logging.getLogger(__name__)

STOP_S = 4.0
"""At the end: how long running admin requests may take before they are cut off."""
BACKLOG = 64
"""Operators and one scraper; more than this many waiting connections is somebody's mistake."""


class AdminListener:
    """One bound admin socket. Bind early (errors at start), serve in the relay's task group."""

    def __init__(
        self, where: Endpoint | UnixSocket, *, listening: socket.socket | None = None
    ) -> None:
        """Bind and listen, or take over a socket that listens there already.

        Raises:
            OSError: the address is taken, not ours, or the path is not a stale socket.
        """
        self._unix_path = where.path if isinstance(where, UnixSocket) else None
        self.leaves_path = False
        """Whether a Unix socket's path stays when we close: somebody else listens there then."""
        if listening is not None:
            self._socket = listening
        elif isinstance(where, UnixSocket):
            self._socket = _bind_unix(where.path)
        else:
            self._socket = _bind_tcp(where)
        self.is_unix = self._unix_path is not None
        self.url = admin_url(self._where(where))
        """``http://ADDR:PORT`` with the real port, or ``unix:PATH``."""

    def _where(self, where: Endpoint | UnixSocket) -> Endpoint | UnixSocket:
        if isinstance(where, UnixSocket):
            return where
        return Endpoint(address=where.address, port=self._socket.getsockname()[1])

    def second_socket(self) -> socket.socket:
        """Return another descriptor of the listening socket; call it before :meth:`serve`."""
        return self._socket.dup()

    async def serve(self, app: ASGIApp, limits: AdminLimits, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then close, waiting shortly for running requests."""
        config = Config()
        # hypercorn adopts the descriptor; detach, or two objects would close one number.
        config.bind = [f"fd://{self._socket.detach()}"]
        config.accesslog = None
        config.errorlog = logging.getLogger("masque_relay.admin.hypercorn")
        config.errorlog.setLevel(logging.WARNING)  # at INFO it tells people to press CTRL + C
        config.loglevel = "WARNING"
        config.include_server_header = False
        config.keep_alive_timeout = limits.keep_alive_timeout_s
        config.read_timeout = int(limits.body_timeout_s) + 1
        config.graceful_timeout = STOP_S / 2
        try:
            async with asyncio.timeout(None) as deadline:

                async def stopped() -> None:
                    await stop.wait()
                    # From Python 3.12 on hypercorn's own end waits for the last connection, however
                    # long its client takes to read.
                    deadline.reschedule(asyncio.get_running_loop().time() + STOP_S)

                await serve(cast("Framework", app), config, shutdown_trigger=stopped)
        except TimeoutError:
            logger.warning("Admin connections were cut off at the end")
        finally:
            self.close()

    def close(self) -> None:
        """Close a socket that was never served, and remove a Unix socket's path. Idempotent."""
        self._socket.close()
        if self._unix_path is not None and not self.leaves_path:
            with suppress(OSError):
                self._unix_path.unlink()


def _bind_tcp(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if endpoint.address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(endpoint.address), endpoint.port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        if _is_answered(path):
            raise OSError(f"{path} is in use by another process")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Bound under a private name, restricted, then renamed: nobody can connect in between.
        private = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):
            private.unlink()
        sock.bind(str(private))
        private.chmod(0o600)
        sock.listen(BACKLOG)
        private.rename(path)
    except OSError:
        sock.close()
        raise
    return sock


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
