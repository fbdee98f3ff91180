"""Owns a relay process with STUN and TURN on ports of its own, and credentials for it."""

import ssl
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.control.auth.basic import hash_password
from masque_relay.control.auth.turn import mint_time_limited, turn_keys
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.turn_client import Credentials, TurnClient

SECRET = "a shared secret for tests of TURN"
REALM = "ghostwire"
USER, PASSWORD = "carol", "correct horse"

TURN = """
[gate.basic]
users_file = "users.toml"

[gate.stun]
shared_secret_files = ["turn-secret"]
server_name = "blackdow.carleon.gov"
token_keys = [
  { kid = "north", key_file = "north.key", subject = "empire" },
  { kid = "union", key_file = "union.key", subject = "empire" },
  { kid = "oldempire", key_file = "oldempire.key", subject = "empire" },
]

[turn]
server_name = "blackdow.carleon.gov"
%s
on_https_port = true
on_h3_port = true
"""

UDP = 'udp = ["127.0.0.1:0", "[::1]:0"]'
STREAMS = """
tcp = ["127.0.0.1:0", "[::1]:0"]
tls = ["127.0.0.1:0", "[::1]:0"]
"""

POLICY = """
[[rule]]
name = "loopback"
action = "allow"
who = ["dev", "carol", "empire"]
methods = ["bind-udp", "connect-tcp", "connect-udp"]
targets = ["127.0.0.0/8:*", "[::1/128]:*"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRelay:
    """A relay, and where its TURN listeners are."""

    relay: ManagedRelay

    def address(self, kind: str, *, ipv6: bool = False) -> tuple[str, int]:
        """Return host and port of a listener: udp, tcp or tls."""
        for text in self._listed(kind):
            host, _, port = text.rpartition(":")
            if ("[" in host) == ipv6:
                return host.strip("[]"), int(port)
        raise AssertionError(f"no {kind} listener")

    def _listed(self, kind: str) -> Sequence[str]:
        with self.relay.admin() as admin:
            turn = admin.status()["turn"]
        assert isinstance(turn, dict)
        listed = turn[kind]
        assert isinstance(listed, list)
        return [str(text) for text in listed]

    @property
    def secret_file(self) -> Path:
        """The shared secret of time-limited credentials."""
        return self.relay.state.directory / "turn-secret"

    def tls_context(self, *alpn: str) -> ssl.SSLContext:
        """Return a context that trusts the relay."""
        context = ssl.create_default_context(cafile=str(self.relay.ca_file))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def credentials(self, subject: str = "dev", **changes: object) -> Credentials:
        """Return a time-limited credential."""
        made = mint_time_limited(
            SECRET.encode(), subject=subject, expires_s=int(time.time()) + 3600
        )
        return Credentials(username=made.username, password=made.password, **changes)  # type: ignore[arg-type]  # fields by name

    def client(
        self,
        kind: str = "udp",
        *,
        ipv6: bool = False,
        credentials: Credentials | None = None,
        address: tuple[str, int] | None = None,
    ) -> TurnClient:
        """Return a client; close it."""
        return TurnClient(
            address or self.address(kind, ipv6=ipv6),
            credentials=credentials or self.credentials(),
            stream=kind != "udp",
            tls=self.tls_context("stun.turn") if kind == "tls" else None,
        )


@contextmanager
def turn_relay(
    directory: Path,
    *,
    policy: str = POLICY,
    listen: str = UDP + STREAMS,
    h3: str = "127.0.0.1:0",
    more: str = "",
    environ: Mapping[str, str] | None = None,
) -> Generator[TurnRelay]:
    """Run a relay with TURN until the block ends.

    Args:
        directory: a temporary directory.
        policy: the policy file's text.
        listen: the lines of ``[turn]`` with the listeners.
        h3: where the relay listens for HTTP/3.
        more: TOML behind ``[turn]``.
        environ: further environment variables.
    """
    state = prepare_dev_state(directory / "state")
    (state.directory / "turn-secret").write_text(SECRET + "\n")
    # Those that coturn's client is built with, for its option -J.
    (state.directory / "north.key").write_bytes(b"01234567890123456789012345678901")
    (state.directory / "union.key").write_bytes(b"1234567890123456")
    (state.directory / "oldempire.key").write_bytes(b"12345678901234567890123456789012")
    md5, sha256 = turn_keys(USER, REALM, PASSWORD)
    (state.directory / "users.toml").write_text(
        f'[user.{USER}]\npassword_hash = "{hash_password(PASSWORD)}"\n'
        f'turn_md5 = "{md5.hex()}"\nturn_sha256 = "{sha256.hex()}"\n'
    )
    with managed_relay(
        directory, policy=policy, config=TURN % listen + more, environ=environ, listen=h3
    ) as relay:
        yield TurnRelay(relay=relay)
