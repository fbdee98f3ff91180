"""Sends one UDP datagram to the public port that `ghostctl` has bound; prints the answer.

Usage: udp_ask.py READY_FILE TEXT
"""
# ruff: noqa: INP001, T201 - a script of its own, which talks to a person

import json
import socket
import sys
from pathlib import Path

bind = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["binds"][0]
host, _, port = bind["public"][0].rpartition(":")
host = host.strip("[]")
with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as peer:
    peer.settimeout(10)
    peer.sendto(sys.argv[2].encode(), (host, int(port)))
    print(peer.recv(65_535).decode())
