"""Owns PeerPolicy: the gate's answers about a tunnel's many peers, remembered for a moment.

For tunnels that reach more than one address (bound UDP, TURN allocations): asking the gate per
datagram would cost more than relaying it, and would write one audit record per refused datagram.
"""

from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.contract.address import IPAddress
from masque_relay.contract.lease import Lease
from masque_relay.contract.ports import Clock, Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPolicyLimits:
    """What one tunnel's memory of its peers may use."""

    peers: int = 4_096
    """Answers remembered, about 0.5 MiB when full; the oldest makes room and is asked for again."""
    fresh_s: float = 30.0
    """How long an answer holds: rules have times of day. A reload ends it at once."""
    questions_per_s: float = 200.0
    """New peers to which the client may send, sustained. Each question costs some 20 us and a
    refusal one audit record; beyond it datagrams to new peers are dropped and counted."""
    questions_burst: int = 2_000
    """Swarms try many peers at first; and after a reload each registered peer is asked about."""
    unsolicited_per_s: float = 50.0
    """New peers that send in by themselves. Anybody can spoof these, so they have a share of their
    own and can't use up the client's."""
    unsolicited_burst: int = 500
    """Players of a game server that come back all at once after a restart."""


class PeerPolicy:
    """Whether the gate lets a lease's holder exchange datagrams with a peer."""

    __slots__ = (
        "_answers",
        "_clock",
        "_gate",
        "_generation",
        "_lease",
        "_limits",
        "_may_ask",
        "_may_ask_unsolicited",
    )

    def __init__(
        self,
        gate: Gate,
        lease: Lease,
        *,
        clock: Clock,
        limits: PeerPolicyLimits,
        may_ask: Callable[[], bool],
        may_ask_unsolicited: Callable[[], bool],
    ) -> None:
        """Remember nothing yet.

        Args:
            gate: asked once per peer, and again when the answer is old or the policy is new.
            lease: of the tunnel.
            clock: time.
            limits: of the memory.
            may_ask: counts one question; False when there are too many.
            may_ask_unsolicited: the same for peers that sent first.
        """
        self._gate = gate
        self._lease = lease
        self._clock = clock
        self._limits = limits
        self._may_ask = may_ask
        self._may_ask_unsolicited = may_ask_unsolicited
        self._generation = gate.generation
        self._answers: dict[tuple[IPAddress, int], tuple[bool, float]] = {}

    def admits(self, address: IPAddress, port: int, *, unsolicited: bool = False) -> bool | None:
        """Return whether datagrams may go to that peer and come from it; None: ask again later.

        Args:
            address: not IPv4-mapped.
            port: as on the wire.
            unsolicited: the peer sent first; such questions have a budget of their own.
        """
        answers = self._answers
        if self._gate.generation != self._generation:
            answers.clear()
            self._generation = self._gate.generation
        now_s = self._clock.monotonic_s()
        known = answers.get((address, port))
        if known is not None and now_s < known[1]:
            return known[0]
        may_ask = self._may_ask_unsolicited if unsolicited else self._may_ask
        if not may_ask():
            return None if known is None else known[0]
        answer = self._gate.admit_address(self._lease, address, port) is None
        if known is None and len(answers) >= self._limits.peers:
            del answers[next(iter(answers))]
        answers[address, port] = (answer, now_s + self._limits.fresh_s)
        return answer
