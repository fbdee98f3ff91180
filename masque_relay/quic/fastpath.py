"""Owns the choice of what a connection's packets go through: the fast path, or aioquic alone."""

import functools
import logging

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from masque_relay.quic.accelerator import is_compiled
from masque_relay.quic.ack_policy import AckPolicyConnection
from masque_relay.quic.fastpath_native import AcceleratedConnection
from masque_relay.quic.fastpath_private import missing_names
from masque_relay.quic.limits import FastPath, QuicLimits
from masque_relay.quic.stream_bursts import StreamBurstConnection

_log = logging.getLogger(__name__)


def connection_class(
    limits: QuicLimits, configuration: QuicConfiguration
) -> type[AckPolicyConnection]:
    """Return what to make a connection of.

    qlog wants a line per packet, which only aioquic writes. The cipher is not known yet: without
    AES-GCM a fast connection leaves every packet to aioquic.
    """
    if limits.fast_path is FastPath.OFF or configuration.quic_logger is not None:
        return AckPolicyConnection
    if limits.fast_path is FastPath.AUTO and not _is_aioquic_as_expected():
        return AckPolicyConnection
    if limits.accelerator and is_compiled():
        return AcceleratedConnection
    return StreamBurstConnection


@functools.cache
def _is_aioquic_as_expected() -> bool:
    missing = missing_names(QuicConnection(configuration=QuicConfiguration(is_client=True)))
    if missing:
        _log.warning("the fast path is off, for aioquic lacks: %s", ", ".join(missing))
    return not missing
