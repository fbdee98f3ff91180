"""Owns a small internet for the mesh: two peers, each behind a NAT of its own, and a relay.

    alice 10.81.1.2 --- NAT 198.51.100.2 --- 198.51.100.1 relay
      bob 10.81.2.2 --- NAT 203.0.113.2  --- 203.0.113.1  relay

The relay's host routes between the two NATs, so that a way past the relay exists. Alice's NAT can
block UDP, change its address, and have a bad path to the relay.
"""

import json
import os
import subprocess
import uuid
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from masque_relay.config.dev_pki import certificate_pem, key_pem, make_leaf, new_key
from masque_relay.config.dev_state import DevState
from tests.support.impairment import ImpairedPath, Impairment, run_impaired_path
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.netns import _call_in, _ip, _open_tun, skip_without_namespaces
from tests.support.processes import (
    GHOSTCTL,
    TIMESCALE,
    executable,
    start_process,
    wait_until,
)
from tests.support.vpn_rig import Host

RELAY_ADDRESS = "198.51.100.1"
RELAY_PORT = 4433
"""Nobody else lives in the relay's namespace, and it has to be the same after a restart."""
WAIT_S = 45.0 * TIMESCALE
KEEPALIVE_S = 2.0
"""So that a blocked carrier is given up after 6 s, and not after 45."""

_DEV_LIMITS = "require_bound_key = false }"
_LAB_LIMITS = f"require_bound_key = false, keepalive_s = {KEEPALIVE_S} }}"
_CONFIG = """
[turn]
on_h3_port = true
relay_addresses = ["198.51.100.1"]
"""


class Nat(StrEnum):
    """How a NAT treats UDP; the words are those of RFC 3489, which everybody still uses."""

    FULL_CONE = "full cone"
    """Whoever knows the mapping may send to it."""
    ADDRESS_RESTRICTED = "address-restricted"
    """Whom the inside has sent to may answer, from any port."""
    PORT_RESTRICTED = "port-restricted"
    """Only exactly what the inside has sent to may answer."""
    SYMMETRIC = "symmetric"
    """Another port outside for each destination."""


_FULL_CONE = """
  chain in {{ type nat hook prerouting priority dstnat;
    iifname "wan" meta l4proto udp dnat to {inside}
  }}
"""
_ADDRESS_RESTRICTED = """
  set spoken {{ type ipv4_addr; flags dynamic,timeout; timeout 120s; }}
  chain through {{ type filter hook forward priority filter;
    oifname "wan" meta l4proto udp update @spoken {{ ip daddr }}
  }}
  chain in {{ type nat hook prerouting priority dstnat;
    iifname "wan" meta l4proto udp ip saddr @spoken dnat to {inside}
  }}
"""
_MORE_RULES = {Nat.FULL_CONE: _FULL_CONE, Nat.ADDRESS_RESTRICTED: _ADDRESS_RESTRICTED}


@dataclass(kw_only=True)
class Home:
    """One peer's network: its machine, and the NAT before it."""

    machine: Host
    router: Host
    inside: str
    outside: str
    gateway: str

    def translate(self, nat: Nat) -> None:
        """Behave like this kind of NAT from now on."""
        how = " random,fully-random" if nat is Nat.SYMMETRIC else ""
        more = _MORE_RULES.get(nat, "").format(inside=self.inside)
        self._nft(f"""
table ip mesh_nat {{
  chain out {{ type nat hook postrouting priority srcnat; oifname "wan" masquerade{how}; }}
  # As home routers do. What they answer would be remembered, and take the port from the inside.
  chain firewall {{ type filter hook input priority filter; iifname "wan" meta l4proto udp drop; }}
  {more}
}}""")

    def block_udp(self) -> None:
        """Let no UDP through, in either direction; nobody is told."""
        self._nft("""
table ip mesh_block {
  chain through { type filter hook forward priority -10; meta l4proto udp drop; }
}""")

    def forward_nothing(self) -> None:
        """Let nothing through: only a proxy on the router leads out."""
        self._nft("""
table ip mesh_wall {
  chain through { type filter hook forward priority -10; policy drop; }
}""")

    def unblock_udp(self) -> None:
        """Let UDP through again."""
        self.router.output("nft", "delete", "table", "ip", "mesh_block")

    def move(self, outside: str) -> None:
        """Get another address from the provider; what the NAT remembers is gone with the old."""
        _ip("-n", self.router.name, "address", "delete", f"{self.outside}/24", "dev", "wan")
        _ip("-n", self.router.name, "address", "add", f"{outside}/24", "dev", "wan")
        self.outside = outside
        self._route_out()

    def _route_out(self) -> None:
        route = ("route", "replace", "default", "via", self.gateway)
        _ip("-n", self.router.name, *route)

    def _nft(self, rules: str) -> None:
        done = subprocess.run(
            [*self.router.prefix, "nft", "-f", "-"],
            input=rules,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@dataclass(kw_only=True)
class PeerCommand:
    """A running `ghostctl peer listen` or `forward`, with --json."""

    process: subprocess.Popen[bytes]
    told: dict[str, Any]
    output: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what it has said of one kind so far."""
        lines = self.output.read_text(encoding="utf-8").splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in said if line["event"] == kind]

    def port(self, index: int = 0) -> int:
        """Return the local port of a forward."""
        return int(str(self.told["forwards"][index]["listen"]).rpartition(":")[2])

    @property
    def way(self) -> str:
        """What carries its session, as it said last."""
        return str(self.events("session")[-1]["way"])

    def is_direct(self) -> bool:
        """Tell whether it said last that the other peer is reached without the relay."""
        paths = self.events("path")
        return bool(paths and paths[-1]["address"])

    def wait_for_way(self, *ways: str, deadline_s: float = WAIT_S) -> str:
        """Wait until one of these ways carries the session; return which."""
        wait_until(
            lambda: self.way in ways or None,
            deadline_s=deadline_s,
            what=f"a session by {' or '.join(ways)}:\n{self.output.read_text()}",
        )
        return self.way

    def wait_direct(self, *, is_direct: bool = True) -> None:
        """Wait until the direct path is there, or gone."""
        wait_until(
            lambda: self.is_direct() is is_direct or None,
            deadline_s=WAIT_S,
            what=f"direct={is_direct}:\n{self.output.read_text()}",
        )


@dataclass(kw_only=True)
class Lab:
    """The five hosts, the relay, and the files."""

    alice: Home
    bob: Home
    relay_host: Host
    directory: Path
    path: ImpairedPath | None
    relay: ManagedRelay | None = None
    _relay_stack: ExitStack = field(default_factory=ExitStack)
    _stack: ExitStack = field(default_factory=ExitStack)

    def start_relay(self) -> ManagedRelay:
        """Run the relay, or run it again with the files and the port that it had."""
        self._relay_stack = ExitStack()
        (self.directory / "relay" / "ready.json").unlink(missing_ok=True)
        self.relay = self._relay_stack.enter_context(
            managed_relay(
                self.directory / "relay",
                listen=f"{RELAY_ADDRESS}:{RELAY_PORT}",
                prefix=self.relay_host.prefix,
                change=_change,
                expect_exit=None,
            )
        )
        return self.relay

    def stop_relay(self, *, gently: bool) -> None:
        """Drain the relay, or kill it."""
        assert self.relay is not None
        if not gently:
            self.relay.process.kill()
            self.relay.process.wait()
        self._relay_stack.close()

    def listen(self, *exposed: str) -> PeerCommand:
        """Bob offers services."""
        return self._peer("bob", self.bob, "listen", *exposed)

    def forward(self, peer_id: str, forwards: Sequence[str], *options: str) -> PeerCommand:
        """Alice gives Bob's services local ports."""
        return self._peer("alice", self.alice, "forward", *options, peer_id, *forwards)

    def peer_command(self, name: str, command: str, *arguments: str) -> list[str]:
        """Return a command as it is typed on a machine of the lab."""
        assert self.relay is not None
        key = str(self.directory / f"{name}.pem")
        way = ["--relay", self.relay.url, "--ca", str(self.relay.ca_file)]
        way += ["--token-file", str(self.relay.token_file), "--key", key]
        return [*GHOSTCTL, "peer", command, *way, *arguments]

    def _peer(self, name: str, home: Home, command: str, *arguments: str) -> PeerCommand:
        tag = uuid.uuid4().hex[:6]
        ready, output = (
            self.directory / f"{name}-{command}-{tag}.{end}" for end in ("json", "out")
        )
        options = ["--json", "--ready-file", str(ready)]
        process, told = self._stack.enter_context(
            start_process(
                [*home.machine.prefix, *self.peer_command(name, command, *options, *arguments)],
                log=output,
                ready=lambda: json.loads(ready.read_text()) if ready.exists() else None,
            )
        )
        return PeerCommand(process=process, told=told, output=output)

    def close(self) -> None:
        """End what still runs."""
        self._stack.close()
        self._relay_stack.close()


@contextmanager
def mesh_lab(
    directory: Path,
    *,
    nats: tuple[Nat, Nat] = (Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED),
    impairment: Impairment | None = None,
) -> Generator[Lab]:
    """Make the hosts, run the relay, and take everything away at the end.

    Args:
        directory: for the files.
        nats: Alice's, and Bob's.
        impairment: what the path between Alice's NAT and the relay's host does.
    """
    skip_without_namespaces()
    executable("nft")
    tag = uuid.uuid4().hex[:6]
    names = ("a", "an", "r", "bn", "b")
    hosts = [Host(name=f"mesh-{tag}-{name}") for name in names]
    machine_a, router_a, relay, router_b, machine_b = hosts
    alice = Home(machine=machine_a, router=router_a, inside="10.81.1.2",
                 outside="198.51.100.2", gateway=RELAY_ADDRESS)  # fmt: skip
    bob = Home(machine=machine_b, router=router_b, inside="10.81.2.2",
               outside="203.0.113.2", gateway="203.0.113.1")  # fmt: skip
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        with ExitStack() as stack:
            path = None
            if impairment is None:
                _cable(
                    router_a, "wan", f"{alice.outside}/24", relay, "alice", f"{RELAY_ADDRESS}/24"
                )
            else:
                path = _bad_cable(stack, impairment, router_a, f"{alice.outside}/24", relay)
            _cable(router_b, "wan", f"{bob.outside}/24", relay, "bob", "203.0.113.1/24")
            for home, nat in zip((alice, bob), nats, strict=True):
                inner = home.inside.rpartition(".")[0] + ".1"
                _cable(home.machine, "lan", f"{home.inside}/24", home.router, "lan", f"{inner}/24")
                _ip("-n", home.machine.name, "route", "add", "default", "via", inner)
                home._route_out()
                home.router.output("sysctl", "-qw", "net.ipv4.ip_forward=1")
                home.translate(nat)
            relay.output("sysctl", "-qw", "net.ipv4.ip_forward=1")
            lab = Lab(alice=alice, bob=bob, relay_host=relay, directory=directory, path=path)
            stack.callback(lab.close)
            lab.start_relay()
            yield lab
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)


def _change(state: DevState) -> None:
    """Give the relay a certificate for its address, and the lab's configuration."""
    ca = x509.load_pem_x509_certificate(state.ca_file.read_bytes())
    ca_key = load_pem_private_key(state.ca_key_file.read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = new_key()
    leaf = make_leaf(key, ca, ca_key, addresses=(RELAY_ADDRESS,))
    state.certificate_file.write_bytes(certificate_pem(leaf))
    state.key_file.write_bytes(key_pem(key))
    text = state.config_file.read_text(encoding="utf-8")
    if _CONFIG not in text:
        assert _DEV_LIMITS in text
        state.config_file.write_text(text.replace(_DEV_LIMITS, _LAB_LIMITS) + _CONFIG)


def _cable(
    one: Host, one_name: str, one_address: str, other: Host, other_name: str, other_address: str
) -> None:
    _ip("link", "add", one_name, "netns", one.name, "type", "veth",
        "peer", "name", other_name, "netns", other.name)  # fmt: skip
    for host, name, address in ((one, one_name, one_address), (other, other_name, other_address)):
        _ip("-n", host.name, "address", "add", address, "dev", name)
        _ip("-n", host.name, "link", "set", name, "up")


def _bad_cable(
    stack: ExitStack, impairment: Impairment, router: Host, address: str, relay: Host
) -> ImpairedPath:
    """Connect Alice's NAT and the relay by two TUN devices in our hands."""
    devices: list[int] = []
    for host, name, own in ((router, "wan", address), (relay, "alice", f"{RELAY_ADDRESS}/24")):
        device = _call_in(host.name, lambda name=name: _open_tun(name))  # type: ignore[misc]
        stack.callback(os.close, device)
        devices.append(device)
        _ip("-n", host.name, "link", "set", name, "addrgenmode", "none")
        _ip("-n", host.name, "address", "add", own, "dev", name)
        _ip("-n", host.name, "link", "set", name, "mtu", str(min(1500, impairment.mtu_bytes)), "up")
    return stack.enter_context(run_impaired_path(devices[0], devices[1], impairment))
