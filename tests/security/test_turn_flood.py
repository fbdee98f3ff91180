"""100,000 Allocates a second that prove nothing, for three seconds: a real allocation goes on."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from masque_relay.contract.turn_limits import TurnLimits
from tests.support.processes import TIMESCALE
from tests.support.turn_client import endpoint
from tests.support.turn_flood import SOURCES
from tests.support.turn_relay import TurnRelay, turn_relay

CHANNEL = 0x4000
LIMITS = TurnLimits()
PER_SECOND, COUNT = 100_000, 300_000
RATE_ENDURED = 0.9
"""Of the real datagrams: the kernel may have no room for one that comes amid a burst."""


def rss_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * 4_096


def metric(turn: TurnRelay, name: str) -> float:
    return turn.relay.metrics()[f"ghostwire_relay_turn_{name}"]


def test_a_real_allocation_keeps_its_traffic_through_bogus_allocates(tmp_path: Path) -> None:
    with (
        turn_relay(tmp_path) as turn,
        turn.client("udp") as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(0.5 * TIMESCALE)
        client.allocate()
        assert client.bind_channel(CHANNEL, endpoint(peer.getsockname())).ok
        before_bytes = rss_bytes(turn.relay.process.pid)
        host, port = turn.address("udp")
        command = [sys.executable, "-m", "tests.support.turn_flood", host, str(port)]
        command += ["--per-second", str(PER_SECOND), "--count", str(COUNT)]
        sent = delivered = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE) as flood:
            while flood.poll() is None:
                client.send_channel(CHANNEL, b"%d" % sent)
                try:
                    while peer.recv(100) != b"%d" % sent:
                        pass  # one that came late
                    delivered += 1
                except TimeoutError:
                    pass
                sent += 1
                time.sleep(0.01)
            assert flood.stdout is not None
            flooded = json.loads(flood.stdout.read())
        assert flooded["sent"] == COUNT
        assert sent > 50
        assert delivered >= RATE_ENDURED * sent, f"{delivered} of {sent}: {flooded}"
        assert metric(turn, "allocations") == 1
        # Answered is what the budget of each source allows, and nothing is kept of the others.
        answered, dropped = (
            metric(turn, "challenges_total"),
            metric(turn, 'messages_dropped_total{cause="budget"}'),
        )
        budget = LIMITS.replies_burst_per_source + LIMITS.replies_per_s_per_source * (
            flooded["took_s"] + 1
        )
        assert 0 < answered <= SOURCES * budget + 10  # and those of the client itself
        assert dropped > 0
        assert rss_bytes(turn.relay.process.pid) - before_bytes < 30_000_000
        assert client.refresh(0).ok
