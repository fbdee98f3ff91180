"""Owns three network namespaces in a row: a client, a relay and a target, and a VPN between them.

    client 10.50.0.1 --- 10.50.0.2 relay 10.60.0.1 --- 10.60.0.2 target
    client fd50::1   --- fd50::2   relay fd60::1   --- fd60::2   target

The client has no route to the target but through the relay's tunnel.
"""

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from masque_relay.config.dev_state import DevState, prepare_dev_state
from tests.support.netns import _call_in, skip_without_namespaces
from tests.support.processes import GHOSTCTL, TIMESCALE, executable, start_process, wait_until
from tests.support.relay_process import RunningRelay, run_changed_relay, use_certificate
from tests.support.site_certificate import write_site_certificate

Result = TypeVar("Result")

RELAY_ADDRESS, RELAY_ADDRESS6 = "10.50.0.2", "fd50::2"
TARGET, TARGET6 = "10.60.0.2", "fd60::2"
RELAY_TOWARDS_TARGET = "10.60.0.1"
POOL, POOL6 = "10.71.0.0/16", "fd71:6877:6970::/64"

RESOLV_CONF = "# of the test\nnameserver 192.0.2.53\n"

_ETC_NETNS = Path("/etc/netns")
_POLICY = """
[[rule]]
name = "vpn"
action = "allow"
who = ["dev"]
methods = ["connect-ip"]
targets = ["10.60.0.0/16:*", "[fd60::/16]:*", "*:*"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One namespace."""

    name: str

    @property
    def prefix(self) -> list[str]:
        """Put before a command, this runs it in the namespace."""
        return ["ip", "netns", "exec", self.name]

    def run(self, *command: str, deadline_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program there and return what became of it."""
        return subprocess.run(
            [*self.prefix, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=deadline_s * TIMESCALE,
        )

    def output(self, *command: str) -> str:
        """Run a program there that must succeed; return what it printed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function in the namespace; sockets that it opens stay there."""
        return _call_in(self.name, function)

    def device_of(self, address: str) -> str:
        """Return the interface by which this host reaches an address; empty: none."""
        found = self.run("ip", "-json", "route", "get", address)
        return json.loads(found.stdout)[0]["dev"] if found.returncode == 0 else ""

    def network_state(self) -> dict[str, str]:
        """Return everything that a tunnel could leave behind."""
        return {
            "links": "\n".join(sorted(line.split()[0] for line in self._lines("-br", "link"))),
            # Without what needs a moment: the state of a cable, link-local addresses.
            "addresses": "\n".join(
                " ".join(word for word in line.split() if "/" in word and "fe80" not in word)
                for line in self._lines("-br", "address")
            ),
            "routes": "\n".join(sorted(self._lines("-4", "route", "show"))),
            "routes6": "\n".join(
                sorted(line for line in self._lines("-6", "route", "show") if "fe80" not in line)
            ),
            "nft": self.run("nft", "list", "ruleset").stdout,
        }

    def switches(self) -> str:
        """Return the forwarding switches."""
        return self.output("sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")

    def _lines(self, *arguments: str) -> list[str]:
        return self.output("ip", *arguments).splitlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The three of them."""

    client: Host
    relay: Host
    target: Host

    @property
    def resolv_conf(self) -> Path:
        """What programs in the client's namespace see as /etc/resolv.conf (ip-netns(8))."""
        return _ETC_NETNS / self.client.name / "resolv.conf"


@contextmanager
def three_hosts() -> Generator[Row]:
    """Make the namespaces and what connects them."""
    skip_without_namespaces()
    tag = uuid.uuid4().hex[:8]
    row = Row(
        client=Host(name=f"vpn-{tag}-c"),
        relay=Host(name=f"vpn-{tag}-r"),
        target=Host(name=f"vpn-{tag}-t"),
    )
    try:
        for host in (row.client, row.relay, row.target):
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        _connect(row.client, ("to-relay", "10.50.0.1/24", "fd50::1/64"),
                 row.relay, ("to-client", "10.50.0.2/24", "fd50::2/64"))  # fmt: skip
        _connect(row.relay, ("to-target", "10.60.0.1/24", "fd60::1/64"),
                 row.target, ("to-relay", "10.60.0.2/24", "fd60::2/64"))  # fmt: skip
        # passt takes its addresses from where the default route leads.
        _ip("-n", row.relay.name, "route", "add", "default", "via", TARGET)
        _ip("-n", row.relay.name, "-6", "route", "add", "default", "via", TARGET6)
        # Lets anybody ping, as distributions do; passt is not root.
        row.relay.output("sysctl", "-w", "net.ipv4.ping_group_range=0 2147483647")
        (_ETC_NETNS / row.client.name).mkdir(parents=True)
        row.resolv_conf.write_text(RESOLV_CONF, encoding="utf-8")
        yield row
    finally:
        shutil.rmtree(_ETC_NETNS / row.client.name, ignore_errors=True)
        for host in (row.client, row.relay, row.target):
            subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)


@contextmanager
def vpn_relay(
    row: Row, directory: Path, egress: str, *, ipv6: bool = False, more: str = ""
) -> Generator[RunningRelay]:
    """Run a relay in its namespace that takes CONNECT-IP.

    Args:
        row: where.
        directory: for its files.
        egress: ``tun`` or ``userspace``.
        ipv6: whether it listens on IPv6.
        more: further lines of its configuration.
    """
    listen = f"[{RELAY_ADDRESS6}]:0" if ipv6 else f"{RELAY_ADDRESS}:0"
    change = _vpn_change(directory, egress, more)
    with run_changed_relay(directory, change, listen=listen, prefix=row.relay.prefix) as relay:
        yield relay


def prepare_vpn_state(directory: Path, egress: str, *, more: str = "") -> DevState:
    """Make the files of such a relay, or take those that are there."""
    if (directory / "state").exists():
        return DevState(directory=directory / "state")
    state = prepare_dev_state(directory / "state")
    _vpn_change(directory, egress, more)(state)
    return state


def _vpn_change(directory: Path, egress: str, more: str) -> Callable[[DevState], None]:
    if egress == "userspace":
        executable("passt")
    directory.mkdir(parents=True, exist_ok=True)
    certificate = write_site_certificate(
        directory / "certificate", addresses=(RELAY_ADDRESS, RELAY_ADDRESS6)
    )

    def change(state: DevState) -> None:
        use_certificate(certificate)(state)
        # A client that was killed keeps its tunnel until then.
        text = state.config_file.read_text(encoding="utf-8")
        assert "deadline_s = 5\n" in text
        text = text.replace("deadline_s = 5\n", "deadline_s = 0.5\n")
        state.config_file.write_text(text, encoding="utf-8")
        with state.config_file.open("a", encoding="utf-8") as config:
            config.write(f'\n[connect_ip]\nenabled = true\negress = "{egress}"\n{more}\n')
        with state.policy_file.open("a", encoding="utf-8") as policy:
            policy.write(_POLICY)

    return change


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTunnel:
    """``ghostctl tunnel ip`` in the client's namespace."""

    process: subprocess.Popen[bytes]
    ready_file: Path
    log_file: Path

    @property
    def told(self) -> dict[str, object]:
        """What it says of itself."""
        told: dict[str, object] = json.loads(self.ready_file.read_text(encoding="utf-8"))
        return told

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the events of one kind that it has printed, with ``--json``."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


def tunnel_command(relay: RunningRelay, arguments: Sequence[str], ready_file: Path) -> list[str]:
    """Return the command that a user would type."""
    command = [*GHOSTCTL, "tunnel", "ip", "--relay", relay.url, "--ca", str(relay.ca_file)]
    command += ["--token-file", str(relay.token_file), "--ready-file", str(ready_file)]
    return [*command, "--json", *arguments]


@contextmanager
def vpn_tunnel(
    row: Row, relay: RunningRelay, directory: Path, *arguments: str
) -> Generator[RunningTunnel]:
    """Run ``ghostctl tunnel ip`` in the client's namespace while the block runs."""
    directory.mkdir(parents=True, exist_ok=True)
    ready_file, log_file = directory / "tunnel-ready.json", directory / "tunnel.log"
    ready_file.unlink(missing_ok=True)
    with start_process(
        [*row.client.prefix, *tunnel_command(relay, arguments, ready_file)],
        log=log_file,
        ready=lambda: ready_file.exists() or None,
    ) as (process, _):
        yield RunningTunnel(process=process, ready_file=ready_file, log_file=log_file)


@contextmanager
def iperf_server(host: Host, directory: Path) -> Generator[None]:
    """Run ``iperf3 --server`` while the block runs; skip the test where there is none."""
    command = [*host.prefix, executable("iperf3"), "--server", "--forceflush"]
    log = directory / "iperf3.log"
    with start_process(command, log=log, ready=lambda: "listening" in log.read_text() or None):
        yield


def iperf(host: Host, target: str, *arguments: str) -> dict[str, object]:
    """Run ``iperf3 --client`` and return the ``end`` of its report, with its ``start``."""
    done = host.run("iperf3", "--json", "--client", target, *arguments, deadline_s=60)
    report = json.loads(done.stdout)
    assert "error" not in report, report["error"]
    end: dict[str, object] = report["end"] | {"start": report["start"]}
    return end


def ping(host: Host, target: str, *arguments: str, count: int = 3) -> bool:
    """Tell whether every one of some pings is answered; skip the test where there is no ping."""
    executable("ping")
    command = ["ping", "-n", "-i", "0.2", "-W", "5", "-c", str(count), *arguments, target]
    return host.run(*command).returncode == 0


def eventually(check: Callable[[], bool], what: str, *, deadline_s: float = 30) -> None:
    """Wait until something is so."""
    wait_until(lambda: check() or None, deadline_s=deadline_s * TIMESCALE, what=what)


def _connect(
    one: Host, one_end: tuple[str, str, str], other: Host, other_end: tuple[str, str, str]
) -> None:
    _ip("link", "add", one_end[0], "netns", one.name, "type", "veth",
        "peer", "name", other_end[0], "netns", other.name)  # fmt: skip
    for host, (name, ipv4, ipv6) in ((one, one_end), (other, other_end)):
        _ip("-n", host.name, "address", "add", ipv4, "dev", name)
        _ip("-n", host.name, "address", "add", ipv6, "dev", name, "nodad")
        _ip("-n", host.name, "link", "set", name, "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()}")
