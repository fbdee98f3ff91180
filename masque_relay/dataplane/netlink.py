"""Owns what we ask of the kernel's network configuration: links, addresses, routes (rtnetlink).

pyroute2 has an event loop of its own and may not be used in a thread that runs one: call these
from another thread (``asyncio.to_thread``) or before the loop starts.
"""

import errno
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, cast

from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IPNetwork
from masque_relay.dataplane.device_error import DeviceError

_MAIN_TABLE = 254
_UNICAST = 1
_NOT_THERE = frozenset({errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One unicast route of the main table."""

    network: IPNetwork
    index: int
    """Of the interface; 0 where it has several."""


class Netlink:
    """The kernel's answers as values; made by :func:`open_netlink`."""

    def __init__(self, route_socket: Any) -> None:  # noqa: ANN401 (pyroute2 has no types)
        self._socket = route_socket

    def index_of(self, name: str) -> int | None:
        """Return an interface's index, or None."""
        found = cast("list[int]", self._socket.link_lookup(ifname=name))
        return found[0] if found else None

    def set_link(self, index: int, **values: object) -> None:
        """Change a link: ``mtu=1400``, ``state="up"``, ``txqlen=1000``."""
        with _explained("set up the device"):
            self._socket.link("set", index=index, **values)

    def add_address(self, index: int, address: IPAddress) -> None:
        """Give a device one address, without a network around it. One that it has is no error."""
        with _explained(f"give the device the address {address}", ignored={errno.EEXIST}):
            self._socket.addr(
                "add",
                index=index,
                address=str(address),
                prefixlen=address.max_prefixlen,
                family=_family(address.version),
            )

    def remove_address(self, index: int, address: IPAddress) -> None:
        """Take an address away; one that is not there is no error."""
        with _explained(f"take the address {address} away", ignored=_NOT_THERE):
            self._socket.addr(
                "del",
                index=index,
                address=str(address),
                prefixlen=address.max_prefixlen,
                family=_family(address.version),
            )

    def add_route(self, index: int, network: IPNetwork) -> None:
        """Lead a network to a device; the same route once more is no error.

        Raises:
            DeviceError: refused, also where another device has a route to the same network.
        """
        with _explained(f"add the route to {network}"):
            try:
                self._socket.route("add", **_route(index, network))
            except Exception as error:
                if _code_of(error) != errno.EEXIST or not self._has(index, network):
                    raise

    def remove_route(self, index: int, network: IPNetwork) -> None:
        """Remove a route; one that is not there is no error."""
        with _explained(f"remove the route to {network}", ignored=_NOT_THERE):
            self._socket.route("del", **_route(index, network))

    def routes(self, version: int) -> list[Route]:
        """Return the unicast routes of the main table, for IP version 4 or 6."""
        whole = "0.0.0.0/0" if version == 4 else "::/0"
        found: list[Route] = []
        for message in self._socket.get_routes(family=_family(version), table=_MAIN_TABLE):
            attributes = _attributes(message)
            if message["type"] != _UNICAST or attributes.get("RTA_TABLE") != _MAIN_TABLE:
                continue
            destination = attributes.get("RTA_DST")
            network = f"{destination}/{message['dst_len']}" if destination else whole
            index = attributes.get("RTA_OIF")
            found.append(
                Route(
                    network=ip_network(network, strict=False),
                    index=index if isinstance(index, int) else 0,
                )
            )
        return found

    def _has(self, index: int, network: IPNetwork) -> bool:
        return Route(network=network, index=index) in self.routes(network.version)


@contextmanager
def open_netlink() -> Generator[Netlink]:
    """Open a route socket for the length of a block.

    Raises:
        DeviceError: this system has no rtnetlink.
    """
    # Imported late: it takes 80 ms, and most relays and clients never need it.
    from pyroute2 import IPRoute  # noqa: PLC0415

    try:
        route_socket = IPRoute()
    except OSError as error:
        raise DeviceError(f"no rtnetlink here: {error.strerror}") from error
    with route_socket:
        yield Netlink(route_socket)


@contextmanager
def _explained(what: str, *, ignored: "set[int] | frozenset[int]" = frozenset()) -> Generator[None]:
    """Turn the kernel's refusal into a DeviceError."""
    try:
        yield
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        if code in ignored:
            return
        hint = {
            errno.EPERM: "run as root or with CAP_NET_ADMIN",
            errno.EEXIST: "another device leads there already; see `ip route`, and narrow the "
            "route or remove the other one",
            errno.ENODEV: "the device was removed by somebody else",
        }.get(code)
        reason = error.args[1] if len(error.args) > 1 else error
        raise DeviceError(f"cannot {what}: {reason}", hint=hint) from error


def _code_of(error: Exception) -> int | None:
    """Return the errno of a NetlinkError; None for any other exception."""
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _route(index: int, network: IPNetwork) -> dict[str, object]:
    return {
        "dst": str(network),
        "oif": index,
        "family": _family(network.version),
        "scope": "link" if network.version == 4 else "universe",
    }


def _attributes(message: Any) -> Mapping[str, object]:  # noqa: ANN401 (pyroute2 has no types)
    return dict(cast("list[tuple[str, object]]", message["attrs"]))
