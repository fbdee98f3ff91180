"""Owns the DERP servers of one region, for tests: their keys, their clients, their mesh.

region = DerpRegion(directory, "a", "b")
with region.relay("a") as a, region.relay("b") as b:
    with region.client("alice", "a") as alice: ...
"""

import random
import secrets
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nacl.public import PrivateKey

from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.wire.node_key import format_node_key
from tests.support.derp_relay import MESH_KEY
from tests.support.derp_socket import DerpSocket
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import TIMESCALE, wait_until

WAIT_S = 20.0 * TIMESCALE
CLIENTS = ("alice", "bob", "carol", "dave")
POLICY = """
[[rule]]
name = "friends"
action = "allow"
who = ["alice", "bob", "dave"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["alice", "bob", "dave"]

[[rule]]
name = "outsiders"
action = "allow"
who = ["carol"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["carol"]

[[rule]]
name = "servers-of-the-region"
action = "allow"
who = ["server-a", "server-b"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["alice", "bob", "carol"]
"""
"""No server may bring packets to dave, although alice may send to him."""

_PATIENCE = """
[derp.mesh_limits]
first_delay_s = 0.1
longest_delay_s = 0.5
"""


class DerpRegion:
    """Keys, ports and certificates of all, before any of them runs.

    Attributes:
        keys: private keys of clients and, as ``server-NAME``, of servers; by name.
        urls: where each server is.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory = directory
        self.names = names
        subjects = (*CLIENTS, *(f"server-{name}" for name in names))
        self.keys = {subject: PrivateKey.generate() for subject in subjects}
        self.ports = {name: quiet_port() for name in names}
        self.urls = {name: f"https://127.0.0.1:{port}/derp" for name, port in self.ports.items()}
        self.ca_file = directory / "ca.pem"
        states = [prepare_dev_state(directory / name / "state") for name in names]
        self.ca_file.write_bytes(b"".join(state.ca_file.read_bytes() for state in states))
        (directory / "nodes.toml").write_text(
            "".join(
                f'[node.{subject}]\nkey = "{format_node_key(self.public(subject))}"\n'
                for subject in subjects
            )
        )

    def public(self, subject: str) -> bytes:
        """Return somebody's public key."""
        return bytes(self.keys[subject].public_key)

    @contextmanager
    def relay(
        self,
        name: str,
        *,
        mesh_with: tuple[str, ...] | None = None,
        mesh_key: str = MESH_KEY,
        ca_file: Path | None = None,
        drain_s: float = 0.2,
    ) -> Generator[ManagedRelay]:
        """Run one of the servers; it dials all of the region, itself too, unless told otherwise."""
        home = self.directory / name
        (home / "mesh.key").write_text(mesh_key)
        (home / "derp.key").write_text(bytes(self.keys[f"server-{name}"]).hex())
        servers = tuple(self.urls.values()) if mesh_with is None else mesh_with
        (home / "ready.json").unlink(missing_ok=True)
        config_file = home / "state" / "relay.toml"
        base, _, _ = config_file.read_text().partition("# -- of the test\n")
        config_file.write_text(base)
        text = f"""# -- of the test
[derp]
enabled = true
key_file = "{home / "derp.key"}"
mesh_key_file = "{home / "mesh.key"}"
mesh_with = {list(servers)}
mesh_ca_file = "{ca_file or self.ca_file}"
{_PATIENCE}
[gate.node_keys]
file = "{self.directory / "nodes.toml"}"
"""
        listen = f"127.0.0.1:{self.ports[name]}"
        environ = {"GHOSTWIRE__DRAIN__DEADLINE_S": str(drain_s)}
        with managed_relay(
            home, policy=POLICY, config=text, listen=listen, environ=environ
        ) as relay:
            yield relay

    def client(self, subject: str, name: str) -> DerpSocket:
        """Let a client come in at one of the servers; close it."""
        address = f"127.0.0.1:{self.ports[name]}"
        return DerpSocket(address, self.ca_file, self.keys[subject]).enter()


def mesh_status(relay: ManagedRelay) -> list[Mapping[str, Any]]:
    """Return what a relay says of the servers that it dials."""
    with relay.admin() as admin:
        status: Any = admin.status()["derp"]
    return list(status["mesh"])


def until_status(relay: ManagedRelay, url: str, **wanted: object) -> Mapping[str, Any]:
    """Wait until a relay says this of a server that it dials; return all that it says."""

    def found() -> Mapping[str, Any] | None:
        entry = next(entry for entry in mesh_status(relay) if entry["server"] == url)
        return entry if wanted.items() <= entry.items() else None

    return wait_until(found, deadline_s=WAIT_S, what=f"{wanted} of {url}")


def quiet_port() -> int:
    """Return a port that is free for UDP and TCP, and that the kernel gives to nobody by itself.

    The servers dial it while nobody listens, and again after a restart.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        ):
            try:
                datagrams.bind(("127.0.0.1", port))
                stream.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def new_mesh_key() -> str:
    """Return a mesh key that nobody has."""
    return secrets.token_hex(32)
