"""Owns one process of ``passt`` and the socket to it.

passt (https://passt.top) ends the flows of one guest in user space and opens ordinary sockets for
them. It leaves by itself when its socket is closed, so that nothing of it outlives the relay, not
even after SIGKILL.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address

from masque_relay.contract.address import IPAddress
from masque_relay.dataplane.batch_io import set_buffers
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.ip_egress_settings import UserspaceSettings
from masque_relay.dataplane.passt_frames import HOST_MAC, gateway_for

_COMPLAINT_BYTES = 4_096
_LEAVE_DEADLINE_S = 1.0  # a few milliseconds as a rule; the loop stands still meanwhile
_NOISE = ("Failed to send", "Don't run as root")

_FIXED_ARGUMENTS = (
    "--foreground",
    "--quiet",
    # The guest reaches what the policy allows, and never this host's loopback by way of a gateway.
    "--no-map-gw",
    # Nobody reaches the guest without being asked.
    *("--tcp-ports", "none", "--udp-ports", "none"),
    # Addresses come from CONNECT-IP.
    *("--no-dhcp", "--no-dhcpv6", "--no-ra", "--no-ndp", "--dns", "none"),
)


class PasstProcess:
    """A running passt for one guest.

    Attributes:
        socket: ours of the pair; non-blocking.
    """

    def __init__(self, settings: UserspaceSettings, addresses: Sequence[IPAddress]) -> None:
        """Start it; it takes frames at once and answers them in a moment.

        Args:
            settings: which program, and the buffers.
            addresses: of the guest, at most one of each family.

        Raises:
            DeviceError: there is no such program, or it cannot be started.
        """
        program = find_passt(settings)
        ours, theirs = socket.socketpair()
        # passt never waits for us to read what it complains of.
        complaints, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            ours.settimeout(0.0)
            set_buffers(ours, settings.send_buffer_bytes, settings.send_buffer_bytes)
            self._process = subprocess.Popen(  # noqa: S603 (no shell, our own arguments)
                [program, "--fd", str(theirs.fileno()), *_arguments(settings, addresses)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=written,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C in the relay's terminal is the relay's business.
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(complaints)
            raise DeviceError(f"cannot start {program}: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(written)
        self.socket = ours
        self._complaints = complaints

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> str:
        """End it; idempotent. Return what it complained of, for the log."""
        if self._complaints < 0:
            return ""
        self.socket.close()
        # It leaves by itself now that its socket is closed; started as root it has another user,
        # whom a relay without CAP_KILL may not kill.
        with contextlib.suppress(PermissionError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_DEADLINE_S)
        try:
            complaint = os.read(self._complaints, _COMPLAINT_BYTES)
        except BlockingIOError:
            complaint = b""
        os.close(self._complaints)
        self._complaints = -1
        lines = complaint.decode(errors="replace").splitlines()
        return "; ".join(line for line in lines if line and not line.startswith(_NOISE))


def find_passt(settings: UserspaceSettings) -> str:
    """Return the program's path.

    Raises:
        DeviceError: there is none.
    """
    program = shutil.which(settings.program)
    if program is None:
        raise DeviceError(
            f'egress = "userspace" needs the program {settings.program}, which is not there',
            hint='apt install passt; or egress = "tun", which needs CAP_NET_ADMIN',
        )
    return program


def _arguments(settings: UserspaceSettings, addresses: Sequence[IPAddress]) -> list[str]:
    mac = ":".join(f"{byte:02x}" for byte in HOST_MAC)
    arguments = [*_FIXED_ARGUMENTS, "--mac-addr", mac, "--mtu", str(settings.mtu_bytes)]
    for address in addresses:
        arguments += ["--address", str(address), "--gateway", str(gateway_for(address))]
        if isinstance(address, IPv4Address):
            arguments += ["--netmask", "31"]
    versions = {address.version for address in addresses}
    if len(versions) == 1:
        arguments.append(f"--ipv{versions.pop()}-only")
    return arguments
