"""Owns what surrounds the relay's TUN device: routes of the pools, forwarding, NAT.

The kernel itself removes device, routes and rules when this process ends, however it ends. Only the
forwarding switches outlive a crash: their old values are in a state file, which the next start of
the same device takes over.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from masque_relay.contract.ip_scope import IPNetwork
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.ip_egress_settings import TunSettings
from masque_relay.dataplane.netlink import open_netlink
from masque_relay.dataplane.nft_table import NftTable

logger = logging.getLogger(__name__)

STATE_DIRECTORY = Path("/run/ghostwire")

_SYSCTL = Path("/proc/sys")
_IPV4_FORWARDING = "net/ipv4/ip_forward"
_IPV6_FORWARDING = "net/ipv6/conf/all/forwarding"
_ACCEPT_RA = "net/ipv6/conf/{}/accept_ra"
_ACCEPT_RA_WHILE_FORWARDING = "2"


class TunNetwork:
    """Routes, forwarding and NAT for one TUN device. Call everything outside the event loop.

    Args:
        settings: device name, MTU, and what to set up.
        pools: the networks of the clients, which are led to the device.
        state_directory: for the file that survives a crash.
    """

    def __init__(
        self,
        settings: TunSettings,
        pools: Sequence[IPNetwork],
        *,
        state_directory: Path = STATE_DIRECTORY,
    ) -> None:
        self._settings = settings
        self._pools = tuple(pools)
        # /run is shared by network namespaces, forwarding is not.
        namespace = Path("/proc/self/ns/net").stat().st_ino
        self._state_file = state_directory / f"{settings.device}-{namespace}.json"
        self._table: NftTable | None = None
        self._switched: dict[str, str] = {}
        """Switches that were changed, with their old values."""

    def set_up(self) -> None:
        """Configure the device, which exists; then the host around it.

        Raises:
            DeviceError: the system refused; nothing is left behind.
        """
        try:
            self.configure_device()
            if self._settings.masquerade or not self._settings.allow_own_addresses:
                self._table = NftTable(
                    _table_name(self._settings), _rules(self._settings, self._pools)
                )
            self._recall()
            if self._settings.forwarding:
                self._forward()
        except BaseException:
            self.close()
            raise

    def configure_device(self) -> None:
        """Give the device its MTU and the routes; also again, after it was deleted and remade.

        Raises:
            DeviceError: the system refused.
        """
        settings = self._settings
        # The kernel would send router solicitations into the device, which nobody answers.
        _write_switch(f"net/ipv6/conf/{settings.device}/addr_gen_mode", "1")
        with open_netlink() as netlink:
            index = netlink.index_of(settings.device)
            if index is None:
                raise DeviceError(f"the device {settings.device} is gone")
            netlink.set_link(
                index, mtu=settings.mtu_bytes, txqlen=settings.queue_packets, state="up"
            )
            for pool in self._pools:
                netlink.add_route(index, pool)

    def close(self) -> None:
        """Undo what the kernel does not undo by itself; idempotent."""
        if self._table is not None:
            self._table.close()
            self._table = None
        switched, self._switched = self._switched, {}
        for name, value in switched.items():
            _write_switch(name, value)
        self._state_file.unlink(missing_ok=True)

    def _recall(self) -> None:
        """Take over what a crashed run has switched and could not switch back."""
        try:
            content = self._state_file.read_bytes()
        except OSError:
            return
        try:
            known = json.loads(content)
        except ValueError:
            logger.warning("The state file %s is damaged; it is ignored.", self._state_file)
            return
        if isinstance(known, dict):
            for name, value in cast("Mapping[object, object]", known).items():
                if isinstance(name, str) and isinstance(value, str) and _is_ours(name):
                    self._switched[name] = value

    def _forward(self) -> None:
        versions = {pool.version for pool in self._pools}
        wanted: dict[str, str] = {}
        if 4 in versions:
            wanted[_IPV4_FORWARDING] = "1"
        if 6 in versions:
            # A forwarding host ignores router advertisements, and would lose its default route.
            if _read_switch(_IPV6_FORWARDING) == "0":
                wanted |= dict.fromkeys(_advertised_interfaces(), _ACCEPT_RA_WHILE_FORWARDING)
            wanted[_IPV6_FORWARDING] = "1"
        for name, value in wanted.items():
            before = _read_switch(name)
            if before is not None and before != value:
                self._switched.setdefault(name, before)
        self._remember()
        for name, value in wanted.items():
            if not _write_switch(name, value):
                raise DeviceError(
                    f"cannot set {name.replace('/', '.')} to {value}",
                    hint="set it yourself (sysctl -w), and forwarding = false in "
                    "[connect_ip.tun]; containers often mount /proc/sys read-only",
                )

    def _remember(self) -> None:
        if not self._switched:
            return
        try:
            self._state_file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            beside = self._state_file.with_suffix(".new")
            beside.write_text(json.dumps(self._switched), encoding="utf-8")
            beside.replace(self._state_file)
        except OSError as error:
            # Only a crash needs it; that is no reason not to start.
            logger.warning("Cannot write %s: %s", self._state_file, error.strerror)


def _table_name(settings: TunSettings) -> str:
    return f"ghostwire-{settings.device}"


def _rules(settings: TunSettings, pools: Sequence[IPNetwork]) -> str:
    device = settings.device
    chains: list[str] = []
    if settings.masquerade:
        rules = [
            f"  {'ip' if pool.version == 4 else 'ip6'} saddr {pool} "
            f'oifname != "{device}" masquerade\n'
            for pool in pools
        ]
        chains.append(
            "chain nat { type nat hook postrouting priority srcnat; policy accept;\n"
            + "".join(rules)
            + "}"
        )
        # As any NAT: from outside only what answers a client.
        chains.append(
            "chain forward { type filter hook forward priority filter; policy accept;\n"
            f'  iifname != "{device}" oifname "{device}" ct state established,related accept\n'
            f'  iifname != "{device}" oifname "{device}" drop\n}}'
        )
    if not settings.allow_own_addresses:
        # ICMP errors about the clients' own packets must not be lost on their way in.
        chains.append(
            "chain input { type filter hook input priority filter; policy accept;\n"
            f'  iifname "{device}" ct state established,related accept\n'
            f'  iifname "{device}" drop\n}}'
        )
    return "\n".join(chains)


def _advertised_interfaces() -> list[str]:
    """Return the switches of interfaces that take router advertisements only without forwarding."""
    directory = _SYSCTL / "net/ipv6/conf"
    if not directory.is_dir():
        return []
    names = [_ACCEPT_RA.format(entry.name) for entry in directory.iterdir()]
    return [name for name in sorted(names) if _read_switch(name) == "1"]


def _is_ours(name: str) -> bool:
    return name in {_IPV4_FORWARDING, _IPV6_FORWARDING} or (
        name.startswith("net/ipv6/conf/") and name.endswith("/accept_ra") and ".." not in name
    )


def _read_switch(name: str) -> str | None:
    try:
        return (_SYSCTL / name).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _write_switch(name: str, value: str) -> bool:
    """Set a switch; return whether it has the value now."""
    if _read_switch(name) == value:
        return True
    try:
        descriptor = os.open(_SYSCTL / name, os.O_WRONLY)
    except OSError:
        return False
    try:
        os.write(descriptor, value.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
