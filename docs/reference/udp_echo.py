"""A UDP echo server for the example. Usage: python3 docs/reference/udp_echo.py PORT."""
# ruff: noqa: INP001, T201 - a script of its own, which talks to a person

import signal
import socket
import sys


def main() -> None:
    """Send everything back until somebody ends us."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", int(sys.argv[1])))
    print(f"a UDP echo on 127.0.0.1:{sys.argv[1]}", flush=True)
    while True:
        payload, client = server.recvfrom(65_535)
        server.sendto(payload, client)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    main()
