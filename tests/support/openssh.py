"""Owns OpenSSH's two ends for tests: sshd in a namespace, ssh and sftp with keys of their own."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import TIMESCALE, executable, start_process
from tests.support.vpn_rig import Host

SSH_PORT = 2222
"""In a namespace where nobody else lives."""
ANSWER_S = 60.0 * TIMESCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class SshClient:
    """Who may log in as root, and knows the server's key as that of the host ``bob``."""

    host: Host
    directory: Path

    def run(
        self,
        *arguments: str,
        program: str = "ssh",
        options: tuple[str, ...] = (),
        given: bytes = b"",
    ) -> bytes:
        """Run ssh or its relatives, which must succeed; return what they printed.

        Args:
            arguments: after the options that every run has.
            program: ``ssh`` or ``sftp``.
            options: each for an ``-o``.
            given: standard input.
        """
        every = {
            "BatchMode": "yes",
            "HostKeyAlias": "bob",
            "IdentitiesOnly": "yes",
            "IdentityFile": self.directory / "login_key",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.directory / "known_hosts",
            "GlobalKnownHostsFile": "none",
        }
        command = [*self.host.prefix, executable(program), "-F", "none"]
        for option in (*(f"{name}={value}" for name, value in every.items()), *options):
            command += ["-o", option]
        done = subprocess.run(
            [*command, *arguments], input=given, capture_output=True, check=False, timeout=ANSWER_S
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}: {done.stderr!r}"
        return done.stdout


@contextmanager
def ssh_server(host: Host, directory: Path) -> Generator[None]:
    """Run sshd on the loopback of a namespace; skip the test where there is none."""
    program = executable("sshd")
    directory.mkdir(exist_ok=True)
    for name in ("host_key", "login_key"):
        make = [executable("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name]
        subprocess.run([*make, "-f", str(directory / name)], check=True, capture_output=True)
    (directory / "authorized_keys").write_text((directory / "login_key.pub").read_text())
    (directory / "known_hosts").write_text("bob " + (directory / "host_key.pub").read_text())
    (directory / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{SSH_PORT}\nHostKey {directory}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nPermitRootLogin prohibit-password\n"
        # The directory of a test may be writable for others: /tmp is.
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "Subsystem sftp internal-sftp\n"
    )
    # Where sshd's unprivileged half lives; the system makes it when it starts the service.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = directory / "sshd.log"
    with start_process(
        [*host.prefix, program, "-D", "-e", "-f", str(directory / "sshd_config")],
        log=log,
        ready=lambda: "listening on" in log.read_text() or None,
    ):
        yield
