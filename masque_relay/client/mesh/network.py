"""Owns which network this machine is in: noticed by its own addresses and its gateways."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from masque_relay.client.mesh.direct import own_addresses

TOWARDS = ("192.0.2.1", "2001:db8::1")
"""Documentation addresses: the route to them is the default route, if there is one."""
LOOK_S = 2.0
"""Between looks: a look costs three sockets that send nothing."""

_ROUTES = Path("/proc/net/route")
_GATEWAY_FIELDS = 3


def network_now() -> str:
    """Return a text that differs from network to network; empty where there is none."""
    addresses = own_addresses(TOWARDS)
    return " ".join((*addresses, *_gateways())) if addresses else ""


class NetworkWatch:
    """Looks every two seconds while it is open, and tells of another network."""

    def __init__(self, relay: Callable[[], str], on_change: Callable[[], object]) -> None:
        """Begin to look.

        Args:
            relay: the relay's address now; empty where it is not known.
            on_change: told once per change.
        """
        self._relay = relay
        self._on_change = on_change
        self._network = network_now()
        self._facing: tuple[str, list[str]] = ("", [])
        """The relay, and our own addresses towards it: they need no default route."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def close(self) -> None:
        """Look no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        relay = self._relay()
        network = network_now()
        facing = (relay, own_addresses((relay,)) if _is_address(relay) else [])
        before, self._facing = self._facing, facing if facing[1] else self._facing
        has_moved = bool(facing[1]) and facing[0] == before[0] and facing[1] != before[1]
        if has_moved or (network and network != self._network):
            self._network = network or self._network
            self._on_change()
        self._timer = self._loop.call_later(LOOK_S, self._look)


def _gateways() -> Sequence[str]:
    """Return the gateways of the default routes, as the kernel writes them; Linux only."""
    try:
        lines = _ROUTES.read_text().splitlines()[1:]
    except OSError:
        return ()
    fields = [line.split() for line in lines]
    default = [one for one in fields if len(one) > _GATEWAY_FIELDS and one[1] == "00000000"]
    return sorted({f"{one[0]}/{one[2]}" for one in default})


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
