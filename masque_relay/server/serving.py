"""Owns the word that a relay serves: to the log, to scripts and to the service manager."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from masque_relay import __version__
from masque_relay.contract.address import Endpoint
from masque_relay.server.notify import notify
from masque_relay.server.ready_file import write_ready_files
from masque_relay.server.source import RelayFiles

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where a relay is to be found; handed to ``on_serving``."""

    h3_address: Endpoint
    admin_url: str
    """Empty in a worker."""
    admin_token_file: str
    https_address: Endpoint | None = None
    """Of HTTP/2 and HTTP/1.1."""
    worker_count: int = 1


def announce(
    serving: Serving, files: RelayFiles, on_serving: Callable[[Serving], None] | None
) -> None:
    """Tell everybody.

    Raises:
        ConfigError: a ready file can't be written.
    """
    https = None if serving.https_address is None else str(serving.https_address)
    write_ready_files(
        files,
        h3=str(serving.h3_address),
        admin=serving.admin_url,
        admin_token_file=serving.admin_token_file,
        https=https,
    )
    notify("READY=1", f"STATUS=serving HTTP/3 on {serving.h3_address}")
    _log.info(
        "serving",
        h3=str(serving.h3_address),
        https=str(https),
        admin=serving.admin_url or None,
        workers=serving.worker_count,
        version=__version__,
    )
    if on_serving is not None:
        on_serving(serving)
