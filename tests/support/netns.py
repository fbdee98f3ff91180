"""Owns a pair of network namespaces whose only connection are two TUN devices in our hands."""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

Result = TypeVar("Result")

_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF = 0x4004_54CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
INTERFACE_MTU_BYTES = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceEnd:
    """One namespace: its name, its address on the path, the far end of its TUN device."""

    name: str
    address: str
    device: int
    """File descriptor: read what the namespace sends, write what it receives."""

    @property
    def prefix(self) -> list[str]:
        """Put before a command, this runs it in the namespace."""
        return ["ip", "netns", "exec", self.name]

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function in the namespace; sockets that it opens stay there."""
        return _call_in(self.name, function)


def skip_without_namespaces() -> None:
    """Skip the test where namespaces or TUN devices cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root (network namespaces, TUN): .ci/run has it")
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip (iproute2): .ci/run installs it")
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun: the kernel or the container has none")


@contextmanager
def namespace_pair() -> Generator[tuple[NamespaceEnd, NamespaceEnd]]:
    """Make two namespaces, 10.77.0.1 and 10.77.0.2, each with loopback and one TUN device."""
    tag = uuid.uuid4().hex[:8]
    ends: list[NamespaceEnd] = []
    names = [f"relay-test-{tag}-a", f"relay-test-{tag}-b"]
    try:
        for name, address in zip(names, ("10.77.0.1", "10.77.0.2"), strict=True):
            _ip("netns", "add", name)
            device = _call_in(name, lambda: _open_tun("path0"))
            ends.append(NamespaceEnd(name=name, address=address, device=device))
            inside = ["-n", name]
            _ip(*inside, "link", "set", "lo", "up")
            # No link-local address: the kernel's own IPv6 packets would disturb the counts.
            _ip(*inside, "link", "set", "path0", "addrgenmode", "none")
            _ip(*inside, "address", "add", f"{address}/24", "dev", "path0")
            _ip(*inside, "link", "set", "path0", "mtu", str(INTERFACE_MTU_BYTES), "up")
        yield ends[0], ends[1]
    finally:
        for end in ends:
            os.close(end.device)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()}")


def _open_tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI)
    try:
        fcntl.ioctl(device, _TUNSETIFF, request)
    except OSError:
        os.close(device)
        raise
    return device


def _call_in(namespace: str, function: Callable[[], Result]) -> Result:
    """Call a function in a thread that has entered the namespace (setns is per thread)."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            finally:
                os.close(descriptor)
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=enter_and_call)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
