"""Asks a DNS server for the address of a name, as `dig` does. Python alone, no library.

Usage: python3 docs/tutorial/ask_dns.py HOST PORT NAME
"""
# ruff: noqa: INP001, T201 - a script of its own, which talks to a person

import secrets
import socket
import sys

TRIES = 5


def main() -> None:
    """Ask, and ask again: UDP may lose a question or an answer."""
    host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    query_id = secrets.token_bytes(2)
    query = query_id + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    asker = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(2)
    asker.connect((host, port))
    for _ in range(TRIES):
        asker.send(query)
        try:
            answer = asker.recv(512)
        except (TimeoutError, ConnectionRefusedError):
            continue
        if answer[:2] == query_id:
            print(f"{name} has the address {'.'.join(map(str, answer[-4:]))}")
            return
    sys.exit(f"no answer from {host} port {port}")


if __name__ == "__main__":
    main()
