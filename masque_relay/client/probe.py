"""Owns ClosedPortProbe: hearing that nobody listens, where QUIC only hears silence.

The socket of a QUIC connection is not connected, because its peer may move; so the kernel does not
tell it about ICMP errors. A second, connected socket that sends one byte does hear them. Every QUIC
endpoint drops such a byte (RFC 9000 section 12.2), and it is sent only if the handshake is slow.
"""

import asyncio
from collections.abc import Callable, Sequence

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError
from masque_relay.dataplane.limits import FlowLimits
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow

FIRST_DELAY_S = 0.25  # a handshake over most paths is complete by then
SECOND_DELAY_S = 1.0  # ICMP messages are rate-limited, and lost like others
_BYTE = b"\0"  # neither form of a QUIC packet: the fixed bit is 0


class ClosedPortProbe:
    """Tells once if the network reports that an endpoint cannot be reached.

    Args:
        destination: where a QUIC handshake is under way.
        on_error: called at most once, in the event loop.

    Raises:
        FlowError: there is no way to the destination at all.
    """

    def __init__(self, destination: Endpoint, on_error: Callable[[FlowError], None]) -> None:
        loop = asyncio.get_running_loop()
        self._on_error = on_error
        self._flow = ConnectedUdpFlow.open(
            destination, self, loop=loop, limits=FlowLimits(), counters=FlowCounters()
        )
        self._timers = [
            loop.call_later(delay_s, self._send) for delay_s in (FIRST_DELAY_S, SECOND_DELAY_S)
        ]

    def close(self) -> None:
        """Stop to listen; idempotent."""
        for timer in self._timers:
            timer.cancel()
        self._flow.close()

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        """Whatever answers, the port is open."""
        del payloads
        self.close()

    def on_flow_error(self, error: FlowError) -> None:
        """The network said that nobody is there."""
        self.close()
        self._on_error(error)

    def _send(self) -> None:
        self._flow.send_batch((_BYTE,))
