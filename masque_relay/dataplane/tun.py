"""Owns TunEgress: CONNECT-IP through a TUN device, so that the kernel routes the packets."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Self

from masque_relay.contract.address import IPAddress
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ip import IpSink
from masque_relay.contract.ip_scope import IPNetwork, IpRange
from masque_relay.contract.lease import Lease
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.ip_egress_settings import TunSettings
from masque_relay.dataplane.tun_device import DeviceGoneError, TunDevice
from masque_relay.dataplane.tun_network import TunNetwork

logger = logging.getLogger(__name__)

BATCH_COUNT = 64
"""Packets given to a sink in one call."""

REMAKE_DELAY_S = 1.0
"""Between attempts to make a device again that was deleted under us."""

_ROOTLESS_HINT = 'or egress = "userspace", which needs no privileges'


class TunAttachment:
    """The packets of one tunnel's addresses; a contract.ip.IpAttachment."""

    __slots__ = ("_egress", "_keys", "dropped_count", "pending", "sink")

    def __init__(self, egress: "TunEgress", keys: Sequence[bytes], sink: IpSink) -> None:
        """Made by :meth:`TunEgress.attach`."""
        self.dropped_count = 0
        self.pending: list[bytes] = []
        """Read in this turn of the loop and not given to the sink yet."""
        self.sink = sink
        self._egress: TunEgress | None = egress
        self._keys = keys

    @property
    def is_open(self) -> bool:
        """Whether the sink may still be called."""
        return self._egress is not None

    def send_packets(self, packets: Sequence[bytes]) -> int:
        """Write packets to the device; return how many it took. Never blocks or raises."""
        egress = self._egress
        taken = 0 if egress is None else egress.write(packets)
        self.dropped_count += len(packets) - taken
        return taken

    def close(self) -> None:
        """Take no packets any more; idempotent."""
        egress, self._egress = self._egress, None
        if egress is not None:
            egress.forget(self._keys)


class TunEgress:
    """A TUN device shared by all tunnels, each with its addresses; a contract.ip.IpEgress.

    When the device is deleted under us all tunnels on it end, and it is made again.

    Attributes:
        unclaimed_count: packets for addresses that no tunnel has.
    """

    def __init__(
        self,
        settings: TunSettings,
        pools: Sequence[IPNetwork],
        network: TunNetwork,
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Use :meth:`open`."""
        self.unclaimed_count = 0
        self._settings = settings
        self._routes = _everything({pool.version for pool in pools})
        self._network = network
        self._loop = loop
        self._device: TunDevice | None = None
        self._attachments: dict[bytes, TunAttachment] = {}
        """By destination address in network byte order: what a slice of a packet is."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        settings: TunSettings,
        pools: Sequence[IPNetwork],
        *,
        network: TunNetwork | None = None,
    ) -> Self:
        """Make the device, lead the pools to it and set up NAT.

        Args:
            settings: device, MTU, NAT and forwarding.
            pools: the networks out of which tunnels get their addresses.
            network: what sets up the host; by default made from the settings.

        Raises:
            DeviceError: the system refused; nothing is left behind.
        """
        network = network or TunNetwork(settings, pools)
        egress = cls(settings, pools, network, loop=asyncio.get_running_loop())
        try:
            device = TunDevice.open(settings.device, mtu_bytes=settings.mtu_bytes)
            try:
                await asyncio.to_thread(network.set_up)
            except BaseException:
                device.close()
                raise
        except DeviceError as error:
            hint = f"{error.hint}; {_ROOTLESS_HINT}" if error.hint else _ROOTLESS_HINT
            raise DeviceError(error.message, hint=hint) from error
        egress.use(device)
        return egress

    @property
    def mtu_bytes(self) -> int:
        """Of the device."""
        return self._settings.mtu_bytes

    def routes(self) -> Sequence[IpRange]:
        """Everything, in the families that there are pools of: policy says what is allowed."""
        return self._routes

    def attach(self, lease: Lease, addresses: Sequence[IPAddress], sink: IpSink) -> TunAttachment:
        """Feed the sink with packets to these addresses.

        Raises:
            FlowError: DESTINATION_UNAVAILABLE while there is no device.
        """
        del lease  # holding one is the permission
        if self._device is None:
            raise FlowError(
                FlowFault.DESTINATION_UNAVAILABLE, f"the device {self._settings.device} is gone"
            )
        keys = [address.packed for address in addresses]
        attachment = TunAttachment(self, keys, sink)
        self._attachments.update(dict.fromkeys(keys, attachment))
        return attachment

    async def close(self) -> None:
        """Remove the device, its routes and the NAT rules; idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._drop_device()
        self._attachments.clear()
        await asyncio.to_thread(self._network.close)

    # -- for attachments -------------------------------------------------------------------------

    def use(self, device: TunDevice) -> None:
        """Read from a device from now on."""
        self._device = device
        self._loop.add_reader(device.fileno(), self._on_readable)

    def write(self, packets: Sequence[bytes]) -> int:
        """Write packets to the device; return how many it took."""
        device = self._device
        if device is None:
            return 0
        try:
            return device.write_packets(packets)
        except DeviceGoneError:
            # Not at once: the sink is in the middle of sending.
            self._loop.call_soon(self._lose, device)
            return 0

    def forget(self, keys: Iterable[bytes]) -> None:
        """Feed nothing for these addresses any more."""
        for key in keys:
            self._attachments.pop(key, None)

    # -- packet path -----------------------------------------------------------------------------

    def _on_readable(self) -> None:
        device = self._device
        if device is None:
            return
        try:
            packets = device.read_packets(self._settings.read_packets)
        except DeviceGoneError:
            self._lose(device)
            return
        find = self._attachments.get
        fed: list[TunAttachment] = []
        for packet in packets:
            # RFC 791, RFC 8200: where the destination address stands.
            key = packet[16:20] if packet[0] < 0x60 else packet[24:40]
            attachment = find(key)
            if attachment is None:
                self.unclaimed_count += 1
                continue
            if not attachment.pending:
                fed.append(attachment)
            attachment.pending.append(packet)
        for attachment in fed:
            batch, attachment.pending = attachment.pending, []
            for start in range(0, len(batch), BATCH_COUNT):
                if attachment.is_open:
                    attachment.sink.on_packets(batch[start : start + BATCH_COUNT])

    # -- a device that vanishes ------------------------------------------------------------------

    def _lose(self, device: TunDevice) -> None:
        if device is not self._device:
            return
        name = self._settings.device
        logger.error("The TUN device %s was deleted; its tunnels end.", name)
        self._drop_device()
        error = FlowError(FlowFault.DESTINATION_UNAVAILABLE, f"the device {name} is gone")
        for attachment in set(self._attachments.values()):
            attachment.close()
            attachment.sink.on_egress_lost(error)
        self._timer = self._loop.call_later(REMAKE_DELAY_S, self._remake)

    def _drop_device(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            self._loop.remove_reader(device.fileno())
            device.close()

    def _remake(self) -> None:
        """Make the device again, in a thread: rtnetlink waits for the kernel."""
        try:
            device = TunDevice.open(self._settings.device, mtu_bytes=self._settings.mtu_bytes)
        except DeviceError as error:
            self._try_later(error)
            return
        configured = self._loop.run_in_executor(None, self._network.configure_device)
        configured.add_done_callback(lambda future: self._remade(device, future))

    def _remade(self, device: TunDevice, configured: "asyncio.Future[None]") -> None:
        error = None if configured.cancelled() else configured.exception()
        if self._closed or configured.cancelled():
            device.close()
        elif error is not None:
            device.close()
            self._try_later(error)
        else:
            self.use(device)
            logger.info("The TUN device %s is there again.", self._settings.device)

    def _try_later(self, error: BaseException) -> None:
        logger.warning("Cannot make the TUN device again: %s", error)
        if not self._closed:
            self._timer = self._loop.call_later(REMAKE_DELAY_S, self._remake)


def _everything(versions: set[int]) -> tuple[IpRange, ...]:
    wholes = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    return tuple(
        IpRange(whole.network_address, whole.broadcast_address)
        for whole in wholes
        if whole.version in versions
    )
