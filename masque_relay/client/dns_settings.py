"""Owns the name servers of this machine while a split tunnel is up: systemd-resolved or a file.

systemd-resolved keeps them per device, so that they vanish with the device. Where it does not run,
/etc/resolv.conf is rewritten, and the journal says how it was.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from masque_relay.client.errors import DeviceFailed
from masque_relay.client.ip_journal import ChangedFile, Journal
from masque_relay.contract.address import IPAddress

RESOLV_CONF = Path("/etc/resolv.conf")

_RESOLVED_SOCKET = Path("/run/systemd/resolve/io.systemd.Resolve")
_RESOLVECTL_TIMEOUT_S = 10.0


class DnsSettings:
    """Name servers that are used while the tunnel is up.

    Args:
        servers: in order of preference.
        journal: where a crash is cleaned up from.
        resolv_conf: the file, where there is no systemd-resolved.
    """

    def __init__(
        self,
        servers: Sequence[IPAddress],
        journal: Journal,
        *,
        resolv_conf: Path = RESOLV_CONF,
    ) -> None:
        self._servers = [str(server) for server in servers]
        self._journal = journal
        self._file = resolv_conf

    def apply(self, device: str) -> str:
        """Make programs ask these servers; return what was changed, for the report.

        Args:
            device: the TUN device.

        Raises:
            DeviceFailed: it could not be changed; nothing is left changed.
        """
        if self._journal.is_of_live_process():
            raise DeviceFailed(
                "another tunnel of this machine has set the name servers",
                hint="end it, or leave --dns out",
            )
        if _resolved_runs():
            self._tell_resolved(device)
            return "systemd-resolved"
        try:
            before = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
            written = _resolv_conf(before, self._servers)
            self._journal.write(
                ChangedFile(path=str(self._file), before=before, written=written, pid=os.getpid())
            )
            # In place: in containers the file is a bind mount, which cannot be replaced.
            self._file.write_text(written, encoding="utf-8")
        except OSError as error:
            self._journal.undo()
            raise DeviceFailed(
                f"cannot set the name servers: {error.filename}: {error.strerror}",
                hint="run as root, or leave --dns out",
            ) from error
        return str(self._file)

    def undo(self) -> None:
        """Take the change back; idempotent. systemd-resolved forgets with the device."""
        self._journal.undo()

    def _tell_resolved(self, device: str) -> None:
        # "~." makes the servers those of every name, not only of names in a search domain.
        for arguments in (["dns", device, *self._servers], ["domain", device, "~."]):
            try:
                done = subprocess.run(  # noqa: S603 (no shell; addresses and our device's name)
                    ["resolvectl", *arguments],  # noqa: S607 (wherever PATH has it)
                    check=False,
                    capture_output=True,
                    text=True,
                    timeout=_RESOLVECTL_TIMEOUT_S,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise DeviceFailed(f"resolvectl: {error}") from error
            if done.returncode:
                raise DeviceFailed(
                    f"resolvectl {arguments[0]}: {done.stderr.strip()}",
                    hint="see `systemctl status systemd-resolved`, or leave --dns out",
                )


def _resolved_runs() -> bool:
    return shutil.which("resolvectl") is not None and _RESOLVED_SOCKET.exists()


def _resolv_conf(before: str, servers: Sequence[str]) -> str:
    """Return the file with other name servers; search domains and options stay."""
    kept = [line for line in before.splitlines() if line.split()[:1] != ["nameserver"]]
    lines = [f"nameserver {server}" for server in servers]
    return "\n".join(["# written by ghostctl tunnel ip", *lines, *kept, ""])
