"""A DNS server for the tutorial: every name has the address 192.0.2.80. Python alone, no library.

Usage: python3 docs/tutorial/dns_server.py PORT
"""
# ruff: noqa: INP001, T201 - a script of its own, which talks to a person

import signal
import socket
import sys


def main() -> None:
    """Answer until somebody ends us."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", int(sys.argv[1])))
    print(f"a DNS server on 127.0.0.1:{sys.argv[1]}", flush=True)
    while True:
        query, client = server.recvfrom(512)
        head = query[:2] + b"\x85\x80\0\1\0\1\0\0\0\0"
        end_of_name = query.index(b"\0", 12) + 1
        question = query[12 : end_of_name + 4]
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes((192, 0, 2, 80))
        server.sendto(head + question + answer, client)
        print(f"asked by {client[0]}:{client[1]}", flush=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    main()
