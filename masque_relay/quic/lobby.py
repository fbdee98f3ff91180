"""Owns newcomers that are admitted but not begun: a burst of handshakes must not stall the loop.

A newcomer is counted as half-open the moment it is seated, so that caps and Retry see a burst while
it arrives; the caps on half-open connections are therefore the bound of the lobby.
"""

from dataclasses import dataclass
from itertools import islice

from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.ports import Clock
from masque_relay.quic.admission import Admission
from masque_relay.quic.doorkeeper import Doorkeeper, Newcomer
from masque_relay.quic.packet import KIND_BY_FIRST_BYTE, Kind
from masque_relay.quic.slots import Neighbours
from masque_relay.quic.table import Port

NEW_CONNECTIONS_PER_TURN = 8
# A handshake's first flight costs 1-2 ms of CPU: traffic of others waits at most some 15 ms.
NEWCOMER_PACKETS = 4
# Datagrams kept for a newcomer: a ClientHello with a post-quantum key share takes two.


@dataclass(slots=True)
class Waiting:
    """A newcomer and what it has sent so far."""

    newcomer: Newcomer
    initial_cid: bytes
    """The Destination Connection ID of its Initial."""
    port: Port
    source: tuple[str, int]
    packets: list[bytes]


class Lobby:
    """Meets the packets of no known connection and seats whoever may begin."""

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        admission: Admission,
        counters: QuicCounters,
        clock: Clock,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.neighbours = neighbours
        """Other workers; None while a packet must not be handed on (again)."""
        self._doorkeeper = doorkeeper
        self._admission = admission
        self._counters = counters
        self._clock = clock
        self._waiting: dict[bytes, Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def meet(self, port: Port, data: bytes, source: tuple[str, int], now_s: float) -> bytes | None:
        """Seat, answer or drop one packet; return the answer, if there is one."""
        kind = KIND_BY_FIRST_BYTE[data[0]] if data else Kind.DROP
        if kind is Kind.SHORT:
            # Never a stateless reset for a connection that another worker may have.
            is_ours = not self._handed_over(data, source)
            return self._doorkeeper.meet_short(data, now_s=now_s) if is_ours else None
        if kind is not Kind.LONG or len(data) < 7:
            # Kind.STUN is answered here once the relay speaks STUN; the others belong to nobody.
            self._counters.packets_unroutable += 1
            return None
        initial_cid = data[6 : 6 + data[5]]
        waiting = self._waiting.get(initial_cid)
        if waiting is not None:
            if len(waiting.packets) < NEWCOMER_PACKETS and waiting.source == source:
                waiting.packets.append(data)
        elif not self._handed_over(data, source):
            return self._meet_stranger(port, data, source, now_s)
        return None

    def _meet_stranger(
        self, port: Port, data: bytes, source: tuple[str, int], now_s: float
    ) -> bytes | None:
        met = self._doorkeeper.meet_long(data, source, now_s=now_s, wall_s=self._clock.wall_s())
        if not isinstance(met, Newcomer):
            return met
        self._counters.connections_opened += 1
        self._admission.opened(met.key)
        initial_cid = data[6 : 6 + data[5]]
        self._waiting[initial_cid] = Waiting(met, initial_cid, port, source, [data])
        return None

    def _handed_over(self, data: bytes, source: tuple[str, int]) -> bool:
        if self.neighbours is None or not self.neighbours.hand_over(data, source):
            return False
        self._counters.packets_handed_over += 1
        return True

    def leave(self) -> list[Waiting]:
        """Return those whose turn it is to begin, a bounded number, longest waiting first."""
        leaving = list(islice(self._waiting.values(), NEW_CONNECTIONS_PER_TURN))
        for waiting in leaving:
            del self._waiting[waiting.initial_cid]
        return leaving

    def clear(self) -> None:
        """Send everybody away."""
        for waiting in self._waiting.values():
            self._admission.closed(waiting.newcomer.key, half_open=True)
        self._waiting.clear()
