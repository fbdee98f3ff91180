"""Owns TunDevice: one TUN device of the Linux kernel, whole IP packets in batches both ways.

No offloads (IFF_VNET_HDR) and one queue, on purpose: docs/decisions/0008-ip-egress.md has the
figures. In short, Python needs longer for the checksum of a segment than the kernel for the system
call that offloads would save, and several queues help several threads only.
"""

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from masque_relay.dataplane.device_error import DeviceError

_CLONE_DEVICE = "/dev/net/tun"

# linux/if_tun.h
_TUNSETIFF = 0x4004_54CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFREQ = struct.Struct("16sH22x")
MAX_NAME_BYTES = 15

_EBADFD = 77  # the device was deleted under its file descriptor
_READ_SLACK_BYTES = 1  # shows that a packet is larger than it should be, and so was cut


class DeviceGoneError(Exception):
    """The device was deleted; nothing will come or go through this object any more."""


class TunDevice:
    """A TUN device that lives as long as this object: the kernel removes it with its routes.

    Attributes:
        name: as the kernel knows it.
        dropped_count: packets that the kernel would not take.
    """

    __slots__ = ("_descriptor", "_read_bytes", "dropped_count", "name")

    def __init__(self, descriptor: int, name: str, *, mtu_bytes: int) -> None:
        """Take over a non-blocking file descriptor of a TUN device; :meth:`close` closes it."""
        self.name = name
        self.dropped_count = 0
        self._descriptor = descriptor
        self._read_bytes = mtu_bytes + _READ_SLACK_BYTES

    @classmethod
    def open(cls, name: str, *, mtu_bytes: int) -> Self:
        """Make a device; it is down and has no address yet.

        Args:
            name: up to 15 bytes; ``%d`` in it lets the kernel count.
            mtu_bytes: larger packets are dropped when read; the device's own MTU is set elsewhere.

        Raises:
            DeviceError: no TUN here, not permitted, or the name is taken.
        """
        if sys.platform != "linux":
            raise DeviceError("TUN devices need Linux")
        try:
            descriptor = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(error, name) from error
        request = _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI)
        try:
            answer = fcntl.ioctl(descriptor, _TUNSETIFF, request)
        except OSError as error:
            os.close(descriptor)
            raise _refusal(error, name) from error
        given: bytes = _IFREQ.unpack(answer)[0]
        return cls(descriptor, given.rstrip(b"\0").decode(), mtu_bytes=mtu_bytes)

    def fileno(self) -> int:
        """Return the descriptor for loop.add_reader; -1 once closed."""
        return self._descriptor

    def set_mtu(self, mtu_bytes: int) -> None:
        """Expect packets of up to this size from now on."""
        self._read_bytes = mtu_bytes + _READ_SLACK_BYTES

    def read_packets(self, max_packets: int) -> list[bytes]:
        """Return the packets that wait, at most so many; never blocks.

        Raises:
            DeviceGoneError: the device was deleted.
        """
        descriptor, size, read = self._descriptor, self._read_bytes, os.read
        packets: list[bytes] = []
        append = packets.append
        try:
            for _ in range(max_packets):
                packet = read(descriptor, size)
                if len(packet) < size:
                    append(packet)
                else:
                    self.dropped_count += 1  # somebody raised the MTU: what we have is cut
        except BlockingIOError:
            pass
        except OSError as error:
            if not packets:
                raise DeviceGoneError from error
        return packets

    def write_packets(self, packets: Sequence[bytes]) -> int:
        """Give whole IP packets to the kernel; return how many it took. Never blocks.

        Others are counted drops: the kernel refuses what is no IP packet, and everything while the
        device is down.

        Raises:
            DeviceGoneError: the device was deleted.
        """
        descriptor, write = self._descriptor, os.write
        written = 0
        for packet in packets:
            try:
                write(descriptor, packet)
            except OSError as error:
                if error.errno in {_EBADFD, errno.EBADF}:
                    raise DeviceGoneError from error
            else:
                written += 1
        self.dropped_count += len(packets) - written
        return written

    def close(self) -> None:
        """Close, and so remove the device; idempotent. Remove it from the loop first."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _refusal(error: OSError, name: str) -> DeviceError:
    if error.errno in {errno.EPERM, errno.EACCES}:
        return DeviceError(
            f"not permitted to make the TUN device {name}",
            hint="run as root or with CAP_NET_ADMIN",
        )
    if error.errno == errno.EBUSY:
        return DeviceError(
            f"the TUN device {name} is in use by another process",
            hint="end it, or choose another device name",
        )
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
        return DeviceError(
            f"this system has no TUN devices ({_CLONE_DEVICE}: {error.strerror})",
            hint="modprobe tun; in a container pass the device: --device /dev/net/tun",
        )
    if error.errno == errno.EINVAL and Path("/sys/class/net", name).exists():
        return DeviceError(f"{name} exists and is no TUN device", hint="choose another name")
    return DeviceError(f"cannot make the TUN device {name}: {error.strerror}")
