"""Owns LocalTun: the TUN device of a split tunnel with its addresses, routes and MTU."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from masque_relay.client.errors import DeviceFailed
from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IPNetwork
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.netlink import open_netlink
from masque_relay.dataplane.tun_device import DeviceGoneError, TunDevice
from masque_relay.wire.connect_ip import MIN_IPV6_MTU_BYTES

READ_PACKETS = 64
"""Per turn of the loop: one batch for the tunnel."""


class LocalTun:
    """A TUN device; the kernel removes it with its addresses and routes when it is closed.

    Attributes:
        name: of the device.
    """

    def __init__(
        self,
        name: str,
        *,
        mtu_bytes: int,
        on_packets: Callable[[list[bytes]], None],
        on_gone: Callable[[], None],
    ) -> None:
        """Make the device.

        Args:
            name: up to 15 bytes; ``%d`` in it lets the kernel count.
            mtu_bytes: at first.
            on_packets: takes what local programs send.
            on_gone: called once when somebody deletes the device.

        Raises:
            DeviceFailed: not permitted, no TUN here, or the name is taken.
        """
        try:
            self._device = TunDevice.open(name, mtu_bytes=mtu_bytes)
        except DeviceError as error:
            raise DeviceFailed(error.message, hint=error.hint) from error
        self.name = self._device.name
        self.mtu_bytes = mtu_bytes
        self._on_packets = on_packets
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._addresses: set[IPAddress] = set()
        self._routes: set[IPNetwork] = set()
        self._loop.add_reader(self._device.fileno(), self._on_readable)

    @property
    def dropped_count(self) -> int:
        """Packets for local programs that the kernel would not take."""
        return self._device.dropped_count

    async def configure(
        self, addresses: Iterable[IPAddress], routes: Sequence[IPNetwork], *, mtu_bytes: int
    ) -> None:
        """Make these the addresses, routes and MTU; what stays the same is not touched.

        Raises:
            DeviceFailed: the system refused.
        """
        try:
            await asyncio.to_thread(self._configure, set(addresses), set(routes), mtu_bytes)
        except DeviceError as error:
            raise DeviceFailed(error.message, hint=error.hint) from error
        self.mtu_bytes = mtu_bytes
        self._device.set_mtu(mtu_bytes)

    async def present_routes(self) -> list[IPNetwork]:
        """Return the networks that the system has routes to, other than by this device."""
        return await asyncio.to_thread(self._present_routes)

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Give packets to local programs. Never blocks and never raises."""
        try:
            self._device.write_packets(packets)
        except DeviceGoneError:
            self._loop.call_soon(self._gone)

    def close(self) -> None:
        """Remove the device; idempotent."""
        if (descriptor := self._device.fileno()) >= 0:
            self._loop.remove_reader(descriptor)
            self._device.close()

    def _on_readable(self) -> None:
        try:
            packets = self._device.read_packets(READ_PACKETS)
        except DeviceGoneError:
            self._gone()
            return
        if packets:
            self._on_packets(packets)

    def _gone(self) -> None:
        if self._device.fileno() >= 0:
            self.close()
            self._on_gone()

    def _configure(self, addresses: set[IPAddress], routes: set[IPNetwork], mtu_bytes: int) -> None:
        with open_netlink() as netlink:
            index = netlink.index_of(self.name)
            if index is None:
                raise DeviceError(f"the device {self.name} is gone")
            netlink.set_link(index, mtu=mtu_bytes, state="up")
            if mtu_bytes < MIN_IPV6_MTU_BYTES:
                # RFC 8200 section 5; the kernel has taken all IPv6 off the device
                self._addresses = {one for one in self._addresses if one.version == 4}
                self._routes = {one for one in self._routes if one.version == 4}
            for address in addresses - self._addresses:
                netlink.add_address(index, address)
                self._addresses.add(address)
            for network in sorted(routes - self._routes, key=str):
                netlink.add_route(index, network)
                self._routes.add(network)
            for network in self._routes - routes:
                netlink.remove_route(index, network)
            for address in self._addresses - addresses:
                netlink.remove_address(index, address)
        self._routes &= routes
        self._addresses &= addresses

    def _present_routes(self) -> list[IPNetwork]:
        with open_netlink() as netlink:
            own = netlink.index_of(self.name)
            return [
                route.network
                for version in (4, 6)
                for route in netlink.routes(version)
                if route.index != own
            ]
