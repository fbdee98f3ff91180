"""Owns what `ghostctl tunnel ip` says while it runs: lines for people, JSON lines for scripts."""

from pathlib import Path
from typing import assert_never

import click
import orjson

from masque_relay.cli.client_report import ClientReport, write_whole
from masque_relay.client.events import ClientEvent, RelayAway, RelayConnected
from masque_relay.client.ip_events import (
    AddressesChanged,
    IpEvent,
    Ipv6Impossible,
    NotAdvertised,
    TunnelDown,
    TunnelUp,
)
from masque_relay.client.split_tunnel import SplitTunnel


class IpTunnelReport(ClientReport):
    """Prints events and status of one split tunnel."""

    def __init__(self, relay: str, *, as_json: bool, ready_file: Path | None) -> None:
        super().__init__(relay, as_json=as_json)
        self._ready_file = ready_file

    def step(self, line: str, **values: object) -> None:
        """Say what is being done now."""
        self._say(f"{line} ...", event="progress", step=line, **values)

    def event(self, event: IpEvent) -> None:
        """Say what happened; an OnIpEvent."""
        match event:
            case TunnelUp():
                self._up(event)
            case TunnelDown():
                self._warn(
                    f"{event.error.message}; trying again in {event.retry_in_s:.1f} s",
                    event.error.hint,
                    event="tunnel_down",
                    retry_in_s=round(event.retry_in_s, 3),
                )
            case NotAdvertised():
                networks = [str(network) for network in event.networks]
                self._warn(
                    f"the relay does not lead to {', '.join(networks)}",
                    "its policy or its egress leaves them out; packets there will be refused",
                    event="not_advertised",
                    networks=networks,
                )
            case AddressesChanged():
                self._warn(
                    f"our addresses changed to {_listed(event.now)}",
                    "connections that were open through the tunnel are lost",
                    event="addresses_changed",
                    before=[str(network) for network in event.before],
                    now=[str(network) for network in event.now],
                )
            case Ipv6Impossible():
                self._warn(
                    f"the path takes packets of {event.mtu_bytes} bytes, IPv6 needs 1280",
                    "only IPv4 goes through; --http 2 has no such limit",
                    event="ipv6_impossible",
                    mtu_bytes=event.mtu_bytes,
                )
            case _:
                assert_never(event)

    def link_event(self, event: ClientEvent) -> None:
        """Say that the relay is away or back; an OnEvent."""
        match event:
            case RelayAway():
                self._warn(
                    f"{event.error.message}; trying again in {event.retry_in_s:.1f} s",
                    event.error.hint,
                    event="relay_away",
                    retry_in_s=round(event.retry_in_s, 3),
                )
            case RelayConnected():
                if self._is_running:
                    self._say("the relay is back", event="relay_connected", peer=str(event.peer))
            case _:
                pass  # of forwards

    def status(self, tunnel: SplitTunnel) -> None:
        """Say what was carried and dropped so far."""
        values = tunnel.status()
        drops = {
            "too large": values["dropped_oversize"],
            "queue full": values["dropped_queue_full"],
            "relay away": values["dropped_away"],
            "local": values["dropped_local"],
            "not for us": values["dropped_foreign"],
        }
        dropped = ", ".join(f"{count} {cause}" for cause, count in drops.items() if count)
        self._say(
            f"{values['device']}: relay {'up' if values['up'] else 'away'}, "
            f"sent {values['sent']} packets ({values['sent_bytes']} bytes), "
            f"received {values['received']} ({values['received_bytes']} bytes), "
            f"dropped {dropped or 'none'}",
            event="status",
            **values,
        )

    def ended(self, tunnel: SplitTunnel) -> None:
        """Say for the last time what was carried, if it ever began."""
        if self._is_running:
            self._is_running = False
            self.status(tunnel)

    def _up(self, event: TunnelUp) -> None:
        addresses, routes = _listed(event.addresses), _listed(event.routes)
        names = f", name servers by {event.name_servers}" if event.name_servers else ""
        values = {
            "relay": self._relay,
            "device": event.device,
            "addresses": [str(network) for network in event.addresses],
            "routes": [str(network) for network in event.routes],
            "mtu_bytes": event.mtu_bytes,
            "http_version": event.http_version,
            "name_servers": event.name_servers,
        }
        first = "ready" if not self._is_running else "up again"
        self._say(
            f"{first}: {routes} through {self._relay} by HTTP/{event.http_version} "
            f"({event.device}, {addresses}, MTU {event.mtu_bytes}{names})",
            event="ready" if not self._is_running else "up",
            **values,
        )
        if not self._is_running and not self._as_json:
            click.echo("Ctrl-C ends the tunnel and takes everything back.")
        self._is_running = True
        if self._ready_file is not None:
            write_whole(self._ready_file, orjson.dumps(values))


def _listed(networks: tuple[object, ...]) -> str:
    return ", ".join(map(str, networks)) or "nothing"
