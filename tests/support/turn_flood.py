"""Owns a flood of Allocates that prove nothing, in a process of its own: many sources, one rate.

    python -m tests.support.turn_flood HOST PORT --per-second 100000 --count 300000

Prints how many were sent and in how many seconds, as JSON.
"""

import argparse
import json
import secrets
import socket
import time

from masque_relay.stun.codepoints import PROTOCOL_UDP, Attribute, MessageClass, Method
from masque_relay.stun.message import encode_message

SOURCES = 40
"""Loopback has addresses enough to be so many hosts."""
BURST = 50
"""Requests that leave by one system call (UDP_SEGMENT), so that one core can send them."""
NAP_S = 0.0002
_UDP_SEGMENT = 103


def bogus_allocate() -> bytes:
    """Return an Allocate without a credential, and with a transaction ID of its own."""
    transport = (int(Attribute.REQUESTED_TRANSPORT), bytes((PROTOCOL_UDP, 0, 0, 0)))
    return encode_message(
        Method.ALLOCATE, MessageClass.REQUEST, secrets.token_bytes(12), [transport]
    )


def flood(server: tuple[str, int], *, per_second: int, count: int) -> tuple[int, float]:
    """Send so many requests; return their number and the seconds that it took."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOURCES)]
    for number, one in enumerate(sockets):
        one.bind((f"127.0.1.{number + 1}", 0))
        one.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, len(bogus_allocate()))
        one.connect(server)
    burst = b"".join(bogus_allocate() for _ in range(BURST))
    sent = 0
    began_s = time.monotonic()
    while sent < count:
        due = min(count, int((time.monotonic() - began_s) * per_second))
        while sent < due:
            sockets[sent // BURST % SOURCES].send(burst)
            sent += BURST
        time.sleep(NAP_S)
    took_s = time.monotonic() - began_s
    for one in sockets:
        one.close()
    return sent, took_s


def main() -> None:
    """Flood as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--per-second", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    sent, took_s = flood(
        (arguments.host, arguments.port), per_second=arguments.per_second, count=arguments.count
    )
    print(json.dumps({"sent": sent, "took_s": took_s}))  # noqa: T201 (for its parent)


if __name__ == "__main__":
    main()
