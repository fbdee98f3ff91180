"""Owns how a relay runs: as one process, or as a supervisor with workers."""

import asyncio
import os
from collections.abc import Callable

import structlog

from masque_relay.config import RelayConfig
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.dataplane.reuseport import can_steer
from masque_relay.quic.slots import MAX_WORKERS
from masque_relay.server.check import check_files
from masque_relay.server.handover import (
    STATE_VERSION,
    Handover,
    is_rehearsal,
    rehearsed_version,
)
from masque_relay.server.relay import Relay
from masque_relay.server.serving import Serving
from masque_relay.server.source import ConfigSource, RelayFiles
from masque_relay.server.supervisor import Supervisor

_log = structlog.get_logger(__name__)


def run_relay(
    source: ConfigSource,
    config: RelayConfig,
    files: RelayFiles,
    *,
    default_worker_count: int | None = None,
    on_serving: Callable[[Serving], None] | None = None,
) -> None:
    """Run a relay until it has drained.

    Args:
        source: where the configuration comes from.
        config: what it says.
        files: what to write for scripts.
        default_worker_count: where the configuration says nothing; None: one per core.
        on_serving: called once it serves.

    Raises:
        ConfigError: a file or an address can't be used; nothing was served.
    """
    if is_rehearsal():
        _rehearse(config)
        return
    count = worker_count(config, default_worker_count)
    handover = Handover.take()
    if handover is None and count == 1:
        relay = Relay(source, config, files, on_serving=on_serving)
        asyncio.run(relay.run())
        return
    supervisor = Supervisor(
        source, config, files, worker_count=count, on_serving=on_serving, handover=handover
    )
    asyncio.run(supervisor.run())


def worker_count(config: RelayConfig, default_count: int | None = None) -> int:
    """Return how many workers a relay has."""
    wanted = config.workers or default_count
    if wanted is None:
        cores = os.sched_getaffinity(0) if can_steer() else (0,)
        wanted = min(len(cores), MAX_WORKERS)
    reason = _one_process_only(config)
    if wanted > 1 and reason is not None:
        log = _log.info if config.workers is None else _log.warning
        log("there is one worker", reason=reason, wanted=wanted)
        return 1
    return wanted


def _one_process_only(config: RelayConfig) -> str | None:
    """Return what keeps the relay from having several workers."""
    if not can_steer():
        return "this system can't choose among workers behind one port"
    if config.connect_ip.enabled:
        # Its addresses come from one pool, and packets from outside reach one device.
        return "CONNECT-IP needs one process"
    if config.ghostwire.enabled or config.derp.enabled:
        return "peers meet in one process"
    if config.turn.is_on:
        # A second connection of a TURN client (RFC 6062), a reserved port, a ticket and the relayed
        # address of another client are all found in the process that made them.
        return "TURN clients meet in one process"
    return None


def _rehearse(config: RelayConfig) -> None:
    if rehearsed_version() != STATE_VERSION:
        raise ConfigError(
            [
                Problem(
                    detail="this version can't take over from the one that runs",
                    hint="stop the relay and start it",
                )
            ]
        )
    check_files(config)
