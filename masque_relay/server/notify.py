"""Owns the word to the service manager: systemd's sd_notify protocol, without a library."""

import os
import socket
import time


def notify(*lines: str) -> bool:
    """Send lines such as ``READY=1`` to the manager that started us; False when there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            sender.send("\n".join(lines).encode())
        except OSError:
            return False  # the manager went away; that is no reason to stop
    return True


def notify_reloading() -> bool:
    """Say that a reload began; systemd (Type=notify-reload) wants the moment with it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}")
