"""Owns how long a conversation between two peers stops when the network changes; needs root."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.mesh_lab import KEEPALIVE_S, Lab, Nat, mesh_lab
from tests.support.mesh_traffic import CHAT_PORT, Conversation, talking, tcp_echo
from tests.support.processes import wait_until

LINES = 10
"""Typed before and after; a tenth of a second between each echo and the next."""
DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One event, both peers behind symmetric NATs and thus on the relay."""

    event: str
    longest_wait_s: float
    """For one echo."""
    way_before: str
    way_after: str
    keepalive_s: float
    """Of the lab's relay: a silent carrier is given up after three of them."""


def _block(lab: Lab) -> None:
    lab.alice.block_udp()


def _restart(lab: Lab) -> None:
    lab.stop_relay(gently=False)
    lab.start_relay()


def _move(lab: Lab) -> None:
    lab.alice.move("198.51.100.77")


EVENTS: dict[str, Callable[[Lab], None]] = {
    "carrier blocked": _block,
    "relay restarted": _restart,
    "address changed": _move,
}


def measure_recovery(directory: Path) -> list[Recovery]:
    """Let each of the events happen to a lab of its own."""
    found: list[Recovery] = []
    for index, (event, happen) in enumerate(EVENTS.items()):
        place = directory / f"lab{index}"
        place.mkdir()
        with ExitStack() as stack:
            lab = stack.enter_context(mesh_lab(place, nats=(Nat.SYMMETRIC, Nat.SYMMETRIC)))
            stack.enter_context(tcp_echo(lab.bob.machine))
            bob = lab.listen(f"chat=127.0.0.1:{CHAT_PORT}")
            alice = lab.forward(bob.told["peer_id"], ["127.0.0.1:0=chat"])
            before = alice.wait_for_way("h3", "quic")
            talk = stack.enter_context(talking(lab.alice.machine, f"127.0.0.1:{alice.port()}"))
            _more_lines(talk)
            talk.longest_wait_s = 0
            happen(lab)
            _more_lines(talk)
            found.append(
                Recovery(
                    event=event,
                    longest_wait_s=talk.longest_wait_s,
                    way_before=before,
                    way_after=alice.way,
                    keepalive_s=KEEPALIVE_S,
                )
            )
    return found


def _more_lines(talk: Conversation) -> None:
    goal = talk.line_count + LINES
    wait_until(
        lambda: talk.line_count >= goal or talk.trouble,
        deadline_s=DEADLINE_S,
        what=f"{LINES} more lines",
    )
    assert talk.trouble is None, talk.trouble
