"""Owns a relay with every way in open, who may come in, and what they show for it.

with every_way_relay(directory) as relay:
    relay.door(Way.DERP_UPGRADE), relay.shown_by("guest", Way.DERP_UPGRADE)
"""

import json
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

from nacl.public import PrivateKey

from masque_relay.client import Bearer
from masque_relay.config.dev_state import DevState
from masque_relay.control.auth.turn import mint_time_limited
from masque_relay.wire.node_key import format_node_key
from tests.support.every_way import Family, Way
from tests.support.knocks import Door, Shown
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.mesh_arrival import token_of
from tests.support.processes import TIMESCALE, wait_until
from tests.support.turn_client import Credentials

SECRET = "a shared secret for tests of every way"
LIMITED = ("full", "spender")
"""Have a rule each, with a quota."""
NODES = ("guest", "neighbour", "neighbour-too", "revoked", "hasty", "outsider", *LIMITED)
"""Whose node keys are listed; ``mallory`` has a key that is not."""

POLICY = """
[[rule]]
name = "calls"
action = "allow"
who = ["neighbour", "neighbour-too"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["neighbour", "neighbour-too"]

[[rule]]
name = "full"
action = "allow"
who = ["full"]
methods = ["connect-udp", "bind-udp", "ghostwire"]
targets = ["127.0.0.0/8:*", "*:*"]
limits = { tunnels_per_subject = 1 }

[[rule]]
name = "spender"
action = "allow"
who = ["spender"]
methods = ["connect-udp", "bind-udp", "ghostwire"]
targets = ["127.0.0.0/8:*", "*:*"]
limits = { bytes_per_subject_per_day = 1000 }

[[rule]]
name = "guests"
action = "allow"
who = ["guest", "neighbour", "revoked"]
methods = ["connect-udp", "bind-udp", "ghostwire"]
targets = ["127.0.0.0/8:*", "*:*"]
"""

CONFIG = """
[gate.stun]
shared_secret_files = ["turn-secret"]
%s

[gate.node_keys]
file = "nodes.toml"
%s

[derp]
enabled = true
key_file = "derp.key"

[turn]
udp = ["127.0.0.1:0"]
tcp = ["127.0.0.1:0"]
tls = ["127.0.0.1:0"]
on_https_port = true
on_h3_port = true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryWayRelay:
    """A relay and the node keys of its clients."""

    relay: ManagedRelay
    keys: dict[str, PrivateKey]
    turn_ports: dict[str, tuple[str, int]] = field(default_factory=dict)

    def door(self, way: Way) -> Door:
        """Return one way in."""
        return Door(relay=self.relay, way=way, turn_ports=self.turn_ports)

    def bearer(self, subject: str, **changes: Any) -> Bearer:
        """Return a token that the relay takes; ``changes`` are those of ``token_of``."""
        return Bearer(token=token_of(self.relay, subject, **changes))

    def shown_by(self, subject: str, way: Way) -> Shown:
        """Return what a subject shows at a way that takes several kinds of credentials."""
        match way.family:
            case Family.MASQUE | Family.GHOSTWIRE:
                return self.bearer(subject)
            case Family.TURN:
                return time_limited(subject)
            case Family.DERP:
                return self.keys[subject]
            case _:
                assert_never(way.family)

    def audit(self) -> "AuditMark":
        """Return a mark in the audit trail: what is written from now on is behind it."""
        return AuditMark(self.relay.state.directory / "audit.jsonl")


class AuditMark:
    """A place in the audit trail."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = len(self._records())

    def decisions(self, *, count: int, **fields: str) -> list[dict[str, object]]:
        """Return what the gate has decided behind the mark, of targets' addresses too.

        Raises:
            TimeoutError: there come to be fewer.
        """
        made = self._wait_for(count, {"decision", "address"}, fields)
        assert len(made) == count, made
        return made

    def records(self, *, count: int, event: str) -> list[dict[str, object]]:
        """Return the records of one event behind the mark, as soon as there are so many.

        Raises:
            TimeoutError: there come to be fewer.
        """
        return self._wait_for(count, {event}, {})

    def _wait_for(
        self, count: int, events: set[str], fields: dict[str, str]
    ) -> list[dict[str, object]]:
        def found() -> list[dict[str, object]] | None:
            made = [
                record
                for record in self._records()[self._seen :]
                if record["event"] in events
                and all(record[name] == value for name, value in fields.items())
            ]
            return made if len(made) >= count else None

        return wait_until(found, deadline_s=10 * TIMESCALE, what=f"{count} records in the trail")

    def _records(self) -> list[dict[str, object]]:
        whole, _, _ = self._file.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


def time_limited(subject: str, *, lifetime_s: float = 600, secret: str = SECRET) -> Credentials:
    """Return a TURN credential as a web service makes it."""
    expires_s = int(time.time() + lifetime_s)
    made = mint_time_limited(secret.encode(), subject=subject, expires_s=expires_s)
    return Credentials(username=made.username, password=made.password)


@contextmanager
def every_way_relay(
    directory: Path,
    *,
    config: str = "",
    stun: str = "",
    node_keys: str = "",
    policy: str = "",
    change: Callable[[DevState], None] = lambda _: None,
) -> Generator[EveryWayRelay]:
    """Run such a relay until the block ends.

    Args:
        directory: a temporary directory.
        config: TOML to append to the configuration.
        stun: TOML to append to ``[gate.stun]``.
        node_keys: TOML to append to ``[gate.node_keys]``.
        policy: TOML to append to the policy.
        change: has its way with the state directory's files.
    """
    keys = {name: PrivateKey.generate() for name in (*NODES, "mallory")}

    def prepare(state: DevState) -> None:
        (state.directory / "turn-secret").write_text(SECRET + "\n")
        (state.directory / "derp.key").write_text(secrets.token_hex(32))
        (state.directory / "nodes.toml").write_text(
            "".join(
                f'[node.{name}]\nkey = "{format_node_key(bytes(keys[name].public_key))}"\n'
                for name in NODES
            )
        )
        change(state)

    with managed_relay(
        directory,
        policy=POLICY + policy,
        config=CONFIG % (stun, node_keys) + config,
        change=prepare,
    ) as relay:
        with relay.admin() as admin:
            turn = admin.status()["turn"]
        assert isinstance(turn, dict)
        ports = {kind: _address(turn[kind][0]) for kind in ("udp", "tcp", "tls")}
        yield EveryWayRelay(relay=relay, keys=keys, turn_ports=ports)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
