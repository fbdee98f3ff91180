"""Owns one machine in a namespace of its own, with a cable to us and a firewall."""

import subprocess
import uuid
from collections.abc import Generator
from contextlib import contextmanager

from tests.support.netns import NamespaceEnd, skip_without_namespaces

RELAY, MACHINE = "10.83.7.1", "10.83.7.2"


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def machine_on_a_cable() -> Generator[NamespaceEnd]:
    """Make the machine; we are its gateway, at ``RELAY``."""
    skip_without_namespaces()
    tag = uuid.uuid4().hex[:8]
    name, here, there = f"relay-test-{tag}", f"rt{tag}a", f"rt{tag}b"
    ip("netns", "add", name)
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        ip("address", "add", f"{RELAY}/24", "dev", here)
        ip("link", "set", here, "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "address", "add", f"{MACHINE}/24", "dev", there)
        ip("-n", name, "link", "set", there, "up")
        ip("-n", name, "route", "add", "default", "via", RELAY)
        yield NamespaceEnd(name=name, address=there, device=-1)
    finally:
        subprocess.run(["ip", "link", "delete", here], check=False, capture_output=True)
        ip("netns", "delete", name)


def firewall(machine: NamespaceEnd, *allowed: str) -> None:
    """Let nothing out of a machine but what matches one of these nftables expressions."""
    rules = [
        "flush ruleset",
        "table inet out { chain out { type filter hook output priority 0; policy drop;",
        'oifname "lo" accept;',
        *(f"{one} accept;" for one in allowed),
        "}",
        "}\n",
    ]
    subprocess.run(
        ["ip", "netns", "exec", machine.name, "nft", "-f", "-"],
        input="\n".join(rules),
        text=True,
        check=True,
        capture_output=True,
    )
