"""Owns UserspaceEgress: CONNECT-IP without privileges, one passt per tunnel.

Why passt and why one each: docs/decisions/0008-ip-egress.md.
"""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from itertools import zip_longest
from typing import Self

from masque_relay.contract.address import IPAddress
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ip import IpSink
from masque_relay.contract.ip_scope import IPNetwork, IpRange
from masque_relay.contract.lease import Lease
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.ip_egress_settings import UserspaceSettings
from masque_relay.dataplane.own_address import is_own_public
from masque_relay.dataplane.passt_frames import encode_arp_request
from masque_relay.dataplane.passt_guest import PasstGuest
from masque_relay.dataplane.passt_process import find_passt

BATCH_COUNT = 64
"""Packets given to a sink in one call."""

_TRIAL_ADDRESS = IPv4Address("192.0.2.2")  # RFC 5737: documentation
_TRIAL_GATEWAY = IPv4Address("192.0.2.3")
_TRIAL_STEP_S = 0.02
_KNOWN_ADDRESSES = 4_096
_KNOWN_FOR_S = 10.0


class UserspaceAttachment:
    """One tunnel's passt; a contract.ip.IpAttachment."""

    def __init__(
        self,
        settings: UserspaceSettings,
        addresses: Sequence[IPAddress],
        sink: IpSink,
        *,
        is_own: Callable[[bytes], bool],
        forget: Callable[["UserspaceAttachment"], None],
    ) -> None:
        """Start one process for each pair of an IPv4 and an IPv6 address.

        Raises:
            DeviceError: passt is not there or cannot be started.
        """
        self.dropped_count = 0
        self._mtu_bytes = settings.mtu_bytes
        self._sink = sink
        self._is_own = is_own
        self._forget = forget
        self._closed = False
        self._guests: list[PasstGuest] = []
        self._by_source: dict[bytes, PasstGuest] = {}
        of_ipv4 = [address for address in addresses if address.version == 4]
        of_ipv6 = [address for address in addresses if address.version == 6]
        try:
            for pair in zip_longest(of_ipv4, of_ipv6):
                own = [address for address in pair if address is not None]
                guest = PasstGuest(
                    settings,
                    own,
                    on_packets=self._deliver,
                    is_busy=lambda: sink.is_busy,
                    on_lost=self._lost,
                )
                self._guests.append(guest)
                self._by_source.update((address.packed, guest) for address in own)
        except DeviceError:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [guest.pid for guest in self._guests if guest.pid is not None]

    def send_packets(self, packets: Sequence[bytes]) -> int:
        """Send packets; return how many passt took. Never blocks or raises."""
        by_guest: dict[PasstGuest, list[bytes]] = {}
        for packet in packets:
            # RFC 791, RFC 8200: where the addresses stand.
            is_ipv4 = packet[0] < 0x60
            guest = self._by_source.get(packet[12:16] if is_ipv4 else packet[8:24])
            if guest is None or len(packet) > self._mtu_bytes:
                continue
            if self._is_own(packet[16:20] if is_ipv4 else packet[24:40]):
                continue
            by_guest.setdefault(guest, []).append(packet)
        taken = sum(guest.send_packets(batch) for guest, batch in by_guest.items())
        self.dropped_count += len(packets) - taken
        return taken

    def close(self) -> None:
        """End the processes; idempotent."""
        if self._closed:
            return
        self._closed = True
        for guest in self._guests:
            guest.close()
        self._by_source.clear()
        self._forget(self)

    def _deliver(self, packets: list[bytes]) -> None:
        for start in range(0, len(packets), BATCH_COUNT):
            if not self._closed:
                self._sink.on_packets(packets[start : start + BATCH_COUNT])

    def _lost(self, detail: str) -> None:
        self.close()
        self._sink.on_egress_lost(FlowError(FlowFault.DESTINATION_UNAVAILABLE, detail))


class UserspaceEgress:
    """Starts passt for each tunnel; a contract.ip.IpEgress."""

    def __init__(self, settings: UserspaceSettings, pools: Sequence[IPNetwork]) -> None:
        """Use :meth:`open`, which tries passt out."""
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        versions = {pool.version for pool in pools}
        self._routes = tuple(
            IpRange(whole.network_address, whole.broadcast_address)
            for whole in (ip_network("0.0.0.0/0"), ip_network("::/0"))
            if whole.version in versions
        )
        self._attachments: set[UserspaceAttachment] = set()
        self._own: dict[bytes, bool] = {}
        self._own_until_s = 0.0

    @classmethod
    async def open(cls, settings: UserspaceSettings, pools: Sequence[IPNetwork]) -> Self:
        """Try passt out, once.

        Args:
            settings: which program, and the buffers.
            pools: the networks out of which tunnels get their addresses; only the families count.

        Raises:
            DeviceError: it is not there, or does not run on this system.
        """
        find_passt(settings)
        if any(pool.version == 4 for pool in pools):
            await _try_out(settings)
        return cls(settings, pools)

    @property
    def mtu_bytes(self) -> int:
        """Of packets from clients."""
        return self._settings.mtu_bytes

    def routes(self) -> Sequence[IpRange]:
        """Everything, in the families that there are pools of: policy says what is allowed."""
        return self._routes

    def attach(
        self, lease: Lease, addresses: Sequence[IPAddress], sink: IpSink
    ) -> UserspaceAttachment:
        """Start passt for these addresses.

        Raises:
            FlowError: RESOURCES: too many tunnels, or the system refused another process.
        """
        del lease  # holding one is the permission
        if len(self._attachments) >= self._settings.tunnels:
            raise FlowError(
                FlowFault.RESOURCES, f"{self._settings.tunnels} tunnels use passt already"
            )
        try:
            attachment = UserspaceAttachment(
                self._settings,
                addresses,
                sink,
                is_own=self._is_own,
                forget=self._attachments.discard,
            )
        except DeviceError as error:
            raise FlowError(FlowFault.RESOURCES, error.message) from error
        self._attachments.add(attachment)
        return attachment

    async def close(self) -> None:
        """End all processes; idempotent."""
        for attachment in tuple(self._attachments):
            attachment.close()

    def _is_own(self, destination: bytes) -> bool:
        """Return whether an address is this host's own public one; asked per packet, so known."""
        if self._settings.allow_own_addresses:
            return False
        known = self._own.get(destination)
        if known is not None and self._loop.time() < self._own_until_s:
            return known
        if len(self._own) >= _KNOWN_ADDRESSES or self._loop.time() >= self._own_until_s:
            self._own.clear()
            self._own_until_s = self._loop.time() + _KNOWN_FOR_S
        found = self._own[destination] = is_own_public(ip_address(destination))
        return found


async def _try_out(settings: UserspaceSettings) -> None:
    """Start one passt and let it answer.

    Raises:
        DeviceError: it died, or said nothing in time.
    """
    complaints: list[str] = []
    patient = UserspaceSettings(program=settings.program, restarts=0)
    guest = PasstGuest(
        patient,
        [_TRIAL_ADDRESS],
        on_packets=lambda _: None,
        is_busy=lambda: False,
        on_lost=complaints.append,
    )
    guest.send_frames(encode_arp_request(_TRIAL_ADDRESS, _TRIAL_GATEWAY))
    try:
        for _ in range(int(settings.start_timeout_s / _TRIAL_STEP_S)):
            if guest.heard or complaints:
                break
            await asyncio.sleep(_TRIAL_STEP_S)
        else:
            complaints.append(f"no answer within {settings.start_timeout_s:g} s")
    finally:
        guest.close()
    if complaints:
        raise DeviceError(
            f"passt does not run here: {complaints[0]}",
            hint="it needs a default route, user namespaces, and a kernel that lets it use both; "
            'try `passt --foreground`; or egress = "tun", which needs CAP_NET_ADMIN',
        )
