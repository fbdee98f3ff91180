"""The server composition root: builds, supervises, reloads and drains everything."""

from masque_relay.server.check import check_files
from masque_relay.server.log import configure_logging
from masque_relay.server.relay import Relay
from masque_relay.server.run import run_relay
from masque_relay.server.serving import Serving
from masque_relay.server.source import ConfigSource, RelayFiles

__all__ = [
    "ConfigSource",
    "Relay",
    "RelayFiles",
    "Serving",
    "check_files",
    "configure_logging",
    "run_relay",
]
