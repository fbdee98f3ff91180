"""Owns WireGuard between two namespaces: the kernel's, or wireguard-go where it has none."""

import shutil
import subprocess
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import START_DEADLINE_S, start_process, wait_until
from tests.support.vpn_rig import Host

MTU_BYTES = 1_280
"""The least that IPv6 takes; on any path."""
_SOCKETS = Path("/run/wireguard")


def new_keys(directory: Path, name: str) -> tuple[Path, str]:
    """Return a file with a new private key, and the public one; skip the test without ``wg``."""
    if shutil.which("wg") is None:
        pytest.skip("needs wg (wireguard-tools): .ci/run installs it")
    private = subprocess.run(["wg", "genkey"], check=True, capture_output=True, text=True).stdout
    public = subprocess.run(
        ["wg", "pubkey"], input=private, check=True, capture_output=True, text=True
    ).stdout
    file = directory / f"{name}.wireguard"
    file.touch(0o600)
    file.write_text(private)
    return file, public.strip()


@contextmanager
def wireguard(
    host: Host, directory: Path, address: str, key: Path, arguments: Sequence[str]
) -> Generator[str]:
    """Give a namespace a WireGuard interface while the block runs; yields the interface's name.

    Args:
        host: where.
        directory: for the log.
        address: of the interface, with its prefix length.
        key: the file with the private key.
        arguments: of ``wg set``, after the key: the port, the peer.
    """
    # Sockets of the userspace programs are named after interfaces, for all namespaces alike.
    name = f"wg{uuid.uuid4().hex[:8]}"
    with _device(host, directory, name):
        host.output("wg", "set", name, "private-key", str(key), *arguments)
        host.output("ip", "address", "add", address, "dev", name)
        host.output("ip", "link", "set", name, "mtu", str(MTU_BYTES), "up")
        yield name


@contextmanager
def _device(host: Host, directory: Path, name: str) -> Generator[None]:
    if host.run("ip", "link", "add", name, "type", "wireguard").returncode == 0:
        yield  # it goes with its namespace
        return
    program = shutil.which("wireguard-go")
    if program is None:
        pytest.skip("needs WireGuard in the kernel or wireguard-go: .ci/run installs that")
    with start_process(
        [*host.prefix, program, "--foreground", name],
        log=directory / f"{name}.log",
        ready=lambda: (_SOCKETS / f"{name}.sock").exists() or None,
    ):
        yield


def wait_for_handshake(host: Host, name: str) -> None:
    """Wait until the two ends know each other."""
    wait_until(
        lambda: host.output("wg", "show", name, "latest-handshakes").split()[1] != "0" or None,
        deadline_s=START_DEADLINE_S,
        what="WireGuard's handshake",
    )
