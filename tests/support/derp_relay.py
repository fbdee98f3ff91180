"""Owns a relay that serves DERP, for tests: its node keys, its mesh key, its policy.

with derp_relay(directory) as derp:
    derp.relay is the process, derp.keys["alice"] a private key that is listed
"""

import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nacl.public import PrivateKey

from masque_relay.wire.node_key import format_node_key
from tests.support.managed_relay import ManagedRelay, managed_relay

MESH_KEY = "6d" * 32
NAMES = ("alice", "bob", "mesh")
"""``mallory`` has a key too, which no list has."""

POLICY = """
[[rule]]
name = "friends"
action = "allow"
who = ["alice", "bob", "mesh", "verified", "dev"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["alice", "bob", "mesh", "verified", "dev"]

[[rule]]
name = "outsiders"
action = "allow"
who = ["carol"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["carol"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpRelay:
    """A relay and the keys of its clients."""

    relay: ManagedRelay
    keys: Mapping[str, PrivateKey]
    directory: Path

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"https://{self.relay.ready['https']}/derp"

    def public(self, name: str) -> bytes:
        """Return somebody's public key."""
        return bytes(self.keys[name].public_key)

    def key_files(self, *names: str) -> str:
        """Return files with private keys as Tailscale writes them, separated by commas."""
        paths: list[str] = []
        for name in names:
            path = self.directory / f"{name}.key"
            path.write_text(f"privkey:{bytes(self.keys[name]).hex()}\n")
            paths.append(str(path))
        return ",".join(paths)


@contextmanager
def derp_relay(
    directory: Path, *, config: str = "", gate: str = "", policy: str = POLICY
) -> Generator[DerpRelay]:
    """Run a relay with DERP; ``config`` is appended to ``[derp]``, ``gate`` to its node keys."""
    keys = {name: PrivateKey.generate() for name in (*NAMES, "carol", "mallory")}
    nodes = directory / "nodes.toml"
    nodes.write_text(
        "".join(
            f'[node.{name}]\nkey = "{format_node_key(bytes(keys[name].public_key))}"\n'
            for name in (*NAMES, "carol")
        )
    )
    mesh_key = directory / "mesh.key"
    mesh_key.write_text(MESH_KEY + "\n")
    (directory / "derp.key").write_text(secrets.token_hex(32))
    text = f"""
[derp]
enabled = true
key_file = "{directory / "derp.key"}"
mesh_key_file = "{mesh_key}"
{config}

[gate.node_keys]
file = "{nodes}"
{gate}
"""
    with managed_relay(directory, policy=policy, config=text) as relay:
        yield DerpRelay(relay=relay, keys=keys, directory=directory)
