"""Owns SplitTunnel: some of this machine's traffic through a relay, by CONNECT-IP and a TUN device.

The device outlives the connection: while the relay is away packets for it are dropped and counted,
and when it is back the same addresses are asked for.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from secrets import SystemRandom
from typing import Protocol

from masque_relay.client.backoff import Backoff
from masque_relay.client.dns_settings import DnsSettings
from masque_relay.client.errors import ClientError, DeviceFailed, TunnelRefused
from masque_relay.client.ip_events import (
    AddressesChanged,
    Ipv6Impossible,
    NotAdvertised,
    OnIpEvent,
    TunnelDown,
    TunnelUp,
)
from masque_relay.client.ip_routes import host_network, split_routes, unreachable
from masque_relay.client.ip_tunnel import ANY_IPV4, ANY_IPV6, IpTunnel
from masque_relay.client.limits import ReconnectLimits
from masque_relay.client.settle import settled_payload_bytes
from masque_relay.client.tun import LocalTun
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IPNetwork
from masque_relay.wire.connect_ip import MIN_IPV6_MTU_BYTES

MAX_MTU_BYTES = 1_500
"""What nearly every network beyond the relay takes; where capsules carry packets more would fit,
and would be refused one hop later."""

WATCH_INTERVAL_S = 1.0
"""How often the path's size is looked at while the tunnel is up."""

IPV6_WAIT_S = 15.0
"""QUIC begins with packets of 1,200 bytes and finds out what more fits: within a few round trips,
or 10 s later where the relay was just starting. IPv4 goes through meanwhile."""

_LEAST_MTU_BYTES = 576  # RFC 791: every host takes this much


class IpOpener(Protocol):
    """What a split tunnel needs of the relay; RelayLink is one."""

    async def open_tunnel(self, request: TunnelRequest, user: TunnelUser) -> TunnelStream:
        """Open a tunnel, or raise ClientError."""
        ...


class TunDevice(Protocol):
    """The device, as the split tunnel sees it; LocalTun is one."""

    name: str
    mtu_bytes: int

    @property
    def dropped_count(self) -> int:
        """Packets for local programs that the kernel would not take."""
        ...

    async def configure(
        self, addresses: Iterable[IPAddress], routes: Sequence[IPNetwork], *, mtu_bytes: int
    ) -> None:
        """Make these the addresses, routes and MTU."""
        ...

    async def present_routes(self) -> list[IPNetwork]:
        """Return the networks that the system has routes to, other than by this device."""
        ...

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Give packets to local programs."""
        ...

    def close(self) -> None:
        """Remove the device; idempotent."""
        ...


class TunFactory(Protocol):
    """Makes the device; LocalTun itself does."""

    def __call__(
        self,
        name: str,
        *,
        mtu_bytes: int,
        on_packets: Callable[[list[bytes]], None],
        on_gone: Callable[[], None],
    ) -> TunDevice:
        """Make a device of that name, or raise DeviceFailed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTunnelSpec:
    """What goes into the tunnel, and how."""

    routes: tuple[IPNetwork, ...]
    excluded: tuple[IPNetwork, ...] = ()
    """Never in the tunnel; the relay's addresses must be among them."""
    name_servers: tuple[IPAddress, ...] = ()
    """Asked through the tunnel, for every name; none = as before."""
    device: str = "ghostwire%d"
    """Name of the TUN device; ``%d`` lets the kernel count."""
    mtu_bytes: int = MAX_MTU_BYTES
    """At most; the path may take less."""

    @property
    def wanted(self) -> tuple[IPNetwork, ...]:
        """The routes, with those to the name servers."""
        return (*self.routes, *map(host_network, self.name_servers))


class SplitTunnel:
    """One TUN device whose packets go through a relay. Call :meth:`start`, then :meth:`run`.

    Args:
        spec: what goes into the tunnel.
        opener: the relay.
        request: of the tunnel, as ip_request() makes it.
        dns: makes the name servers' settings for a device; None leaves them alone.
        reconnect: delays between attempts.
        on_event: told of ups and downs.
        make_device: makes the TUN device.

    Attributes:
        away_count: packets of local programs dropped while there was no tunnel.
        foreign_count: packets from the relay that were for none of our addresses.
    """

    def __init__(
        self,
        spec: SplitTunnelSpec,
        opener: IpOpener,
        request: TunnelRequest,
        *,
        dns: DnsSettings | None = None,
        reconnect: ReconnectLimits | None = None,
        on_event: OnIpEvent = lambda _: None,
        make_device: TunFactory = LocalTun,
    ) -> None:
        self.away_count = 0
        self.foreign_count = 0
        self._spec = spec
        self._opener = opener
        self._request = request
        self._dns = dns
        self._on_event = on_event
        self._make_device = make_device
        self._backoff = Backoff(reconnect or ReconnectLimits(), SystemRandom().random)
        self._tunnel: IpTunnel | None = None
        self._local: TunDevice | None = None
        self._networks: tuple[IPNetwork, ...] = ()
        self._own: frozenset[bytes] = frozenset()
        """Our addresses of now, as packets have them."""
        self._name_servers_set: str | None = None
        self._news = asyncio.Event()
        """The tunnel ended or says something else, or the device is gone."""
        self._device_gone = False
        self._had: dict[int, IPAddress] = {4: ANY_IPV4, 6: ANY_IPV6}
        """By IP version: the address to ask for, at first any."""
        self._asked: set[int] = set()
        """IP versions that the present tunnel was asked for an address of."""
        self._opened_s = 0.0
        self._is_down = False
        """It was told that the tunnel is down; one that was idle and is opened again is no news."""

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the tunnel, make the device, set routes and name servers.

        Raises:
            ClientError: something failed; call :meth:`close` then, as always.
        """
        tunnel = await self._open()
        self._local = self._make_device(
            self._spec.device,
            mtu_bytes=self._spec.mtu_bytes,
            on_packets=self._send,
            on_gone=self._on_gone,
        )
        await self._configure(self._local, tunnel)
        if self._dns is not None:
            self._name_servers_set = await asyncio.to_thread(self._dns.apply, self._local.name)
        self._tell_up(tunnel)

    async def run(self) -> None:
        """Keep the tunnel up until cancelled.

        Raises:
            DeviceFailed: the device was deleted, or cannot be set up any more.
            RuntimeError: start() has not been called; a bug of the caller.
        """
        local = self._local
        if local is None:
            message = "start() comes before run()"
            raise RuntimeError(message)
        while True:
            tunnel = self._tunnel
            if tunnel is None or not tunnel.is_open:
                await self._reopen(local)
                continue
            try:
                async with asyncio.timeout(WATCH_INTERVAL_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            if self._device_gone:
                raise DeviceFailed(
                    f"the TUN device {local.name} was deleted",
                    hint="something else manages it; start again, with another --device",
                )
            await self._keep_up(local, tunnel)

    def close(self) -> None:
        """Undo everything: name servers, device with its routes, tunnel. Idempotent."""
        if self._dns is not None:
            self._dns.undo()
        if self._local is not None:
            self._local.close()
        if self._tunnel is not None:
            self._tunnel.close()

    def status(self) -> dict[str, object]:
        """Return what was carried and dropped, for status lines."""
        tunnel, local = self._tunnel, self._local
        return {
            "device": "" if local is None else local.name,
            "up": tunnel is not None and tunnel.is_open,
            "mtu_bytes": 0 if local is None else local.mtu_bytes,
            "sent": 0 if tunnel is None else tunnel.sent_count,
            "sent_bytes": 0 if tunnel is None else tunnel.sent_bytes,
            "received": 0 if tunnel is None else tunnel.received_count,
            "received_bytes": 0 if tunnel is None else tunnel.received_bytes,
            "dropped_oversize": 0 if tunnel is None else tunnel.oversize_count,
            "dropped_queue_full": 0 if tunnel is None else tunnel.send_dropped_count,
            "dropped_away": self.away_count,
            "dropped_local": 0 if local is None else local.dropped_count,
            "dropped_foreign": self.foreign_count,
        }

    # -- packet path -----------------------------------------------------------------------------

    def _send(self, packets: list[bytes]) -> None:
        tunnel = self._tunnel
        if tunnel is None or not tunnel.is_open:
            self.away_count += len(packets)
        else:
            tunnel.send_packets(packets)

    def _receive(self, packets: Sequence[bytes]) -> None:
        if self._local is None:
            return
        # Where this machine forwards, anything else would reach the networks behind it.
        own = [packet for packet in packets if _destination(packet) in self._own]
        self.foreign_count += len(packets) - len(own)
        if own:
            self._local.send_packets(own)

    # -- parts -----------------------------------------------------------------------------------

    async def _open(self) -> IpTunnel:
        """Open a tunnel with addresses, those that we had before if there were any."""
        tunnel = IpTunnel(
            on_packets=self._receive,
            on_changed=self._news.set,
            on_closed=lambda _: self._news.set(),
        )
        await self._opener.open_tunnel(self._request, tunnel)
        try:
            await settled_payload_bytes(lambda: tunnel.max_packet_bytes)
            self._asked = set()
            await self._ask(tunnel)
            networks = self._usable(tunnel)
            if not networks:
                raise TunnelRefused(
                    200,
                    "the relay has no address for us",
                    error="connection_limit_reached",
                    hint="its pools are exhausted, or have no address of the family of --route",
                )
        except BaseException:
            tunnel.close()
            raise
        self._tunnel, self._opened_s = tunnel, asyncio.get_running_loop().time()
        if missing := unreachable(self._spec.routes, tunnel.routes):
            self._on_event(NotAdvertised(networks=tuple(missing)))
        return tunnel

    async def _ask(self, tunnel: IpTunnel) -> None:
        """Ask for an address of each version that fits and was not asked for on this tunnel."""
        unasked = sorted(self._fitting(tunnel) - self._asked)
        if unasked:
            self._asked.update(unasked)
            await tunnel.request_addresses([self._had[version] for version in unasked])

    def _fitting(self, tunnel: IpTunnel) -> set[int]:
        """Return the IP versions that there are routes of, and that the path can carry."""
        fits_ipv6 = tunnel.max_packet_bytes >= MIN_IPV6_MTU_BYTES
        return {one.version for one in self._spec.wanted if one.version == 4 or fits_ipv6}

    def _usable(self, tunnel: IpTunnel) -> tuple[IPNetwork, ...]:
        """Return what the relay gave us of these versions; it may give more than was asked for."""
        fitting = self._fitting(tunnel)
        return tuple(network for network in tunnel.networks if network.version in fitting)

    async def _keep_up(self, local: TunDevice, tunnel: IpTunnel) -> None:
        """Follow what the path takes and what the relay gives."""
        if self._lost_ipv6(tunnel):
            tunnel.close()  # RFC 9484 section 7.2; opened again, with IPv4 alone
            return
        try:
            await self._ask(tunnel)
        except ClientError:
            return  # over, which the next turn sees; or no answer, which is none
        if self._differs(local, tunnel):
            await self._configure(local, tunnel)
            self._tell_up(tunnel)
        waited_s = asyncio.get_running_loop().time() - self._opened_s
        wants_ipv6 = any(network.version == 6 for network in self._spec.wanted)
        if wants_ipv6 and waited_s > IPV6_WAIT_S and 6 not in self._asked:
            self._asked.add(6)
            self._on_event(Ipv6Impossible(mtu_bytes=tunnel.max_packet_bytes))

    async def _reopen(self, local: TunDevice) -> None:
        """Try once; after a failure, wait."""
        before = self._networks
        try:
            tunnel = await self._open()
            await self._configure(local, tunnel)
        except DeviceFailed:
            raise
        except ClientError as error:
            delay_s = self._backoff.failed()
            if isinstance(error, TunnelRefused):
                delay_s = max(delay_s, float(error.retry_after_s or 0))
            self._is_down = True
            self._on_event(TunnelDown(error=error, retry_in_s=delay_s))
            await asyncio.sleep(delay_s)
        else:
            self._backoff.succeeded()
            if self._is_down or self._networks != before:
                self._tell_up(tunnel)
            self._is_down = False

    async def _configure(self, local: TunDevice, tunnel: IpTunnel) -> None:
        before, self._networks = self._networks, self._usable(tunnel)
        self._own = frozenset(network.network_address.packed for network in self._networks)
        lost = set(before) - set(self._networks)
        for network in self._networks:
            self._had[network.version] = network.network_address
            if any(other.version == network.version for other in lost):
                self._on_event(AddressesChanged(before=before, now=self._networks))
                break
        await local.configure(
            [network.network_address for network in self._networks],
            await self._routes(local),
            mtu_bytes=self._mtu_bytes(tunnel),
        )

    async def _routes(self, local: TunDevice) -> list[IPNetwork]:
        """Return what to lead in now: networks of this machine come and go."""
        versions = {network.version for network in self._networks}
        return split_routes(
            [network for network in self._spec.wanted if network.version in versions],
            excluded=self._spec.excluded,
            present=await local.present_routes(),
        )

    def _mtu_bytes(self, tunnel: IpTunnel) -> int:
        fits_bytes = min(self._spec.mtu_bytes, tunnel.max_packet_bytes)
        return max(fits_bytes, _LEAST_MTU_BYTES)

    def _differs(self, local: TunDevice, tunnel: IpTunnel) -> bool:
        if not tunnel.is_open:
            return False
        return self._usable(tunnel) != self._networks or self._mtu_bytes(tunnel) != local.mtu_bytes

    def _lost_ipv6(self, tunnel: IpTunnel) -> bool:
        if not tunnel.is_open or tunnel.max_packet_bytes >= MIN_IPV6_MTU_BYTES:
            return False
        return any(network.version == 6 for network in self._networks)

    def _tell_up(self, tunnel: IpTunnel) -> None:
        if self._local is not None:
            self._on_event(
                TunnelUp(
                    device=self._local.name,
                    addresses=self._networks,
                    routes=self._spec.wanted,
                    mtu_bytes=self._local.mtu_bytes,
                    http_version=tunnel.http_version,
                    name_servers=self._name_servers_set,
                )
            )

    def _on_gone(self) -> None:
        self._device_gone = True
        self._news.set()


def _destination(packet: bytes) -> bytes:
    """Return where an IP packet says that it goes (RFC 791, RFC 8200); cut off if it is too short.

    The length tells the families apart.
    """
    return packet[16:20] if packet[:1] < b"\x60" else packet[24:40]
