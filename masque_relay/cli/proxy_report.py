"""Owns what `ghostctl proxy` says while it runs: lines for people, JSON lines for scripts."""

from pathlib import Path

import click
import orjson

from masque_relay.cli.client_report import ClientReport, write_whole
from masque_relay.cli.output import print_json
from masque_relay.client import RelayLink
from masque_relay.client.events import ClientEvent, RelayAway, RelayConnected
from masque_relay.client.proxy import LocalProxy


class ProxyReport(ClientReport):
    """Prints events and status of one local proxy."""

    def __init__(self, relay: str, *, as_json: bool) -> None:
        super().__init__(relay, as_json=as_json)
        self._is_away = False

    def ready(self, local: LocalProxy, ready_file: Path | None) -> None:
        """Say where programs can connect."""
        self._is_running = True
        listeners = {
            "socks": None if local.socks is None else str(local.socks),
            "http": None if local.http is None else str(local.http),
        }
        if self._as_json:
            print_json({"event": "ready", "relay": self._relay, **listeners})
        else:
            if local.socks is not None:
                click.echo(f"SOCKS5 on {local.socks} through {self._relay}")
            if local.http is not None:
                click.echo(f"HTTP proxy on {local.http} through {self._relay}")
            click.echo(f"ready: try  {_example(local)}")
        if ready_file is not None:
            write_whole(ready_file, orjson.dumps({"relay": self._relay, **listeners}))

    def event(self, event: ClientEvent) -> None:
        """Say what happened to the relay; an OnEvent."""
        match event:
            case RelayConnected():
                if self._is_away:  # or it is but a further connection
                    self._is_away = False
                    self._say("the relay is back", event="relay_connected", peer=str(event.peer))
            case RelayAway():
                self._is_away = True
                self._warn(
                    f"{event.error.message}; trying again in {event.retry_in_s:.1f} s",
                    event.error.hint,
                    event="relay_away",
                    retry_in_s=round(event.retry_in_s, 3),
                )
            case _:
                return  # of UDP forwards, which a proxy has none of

    def status(self, local: LocalProxy, link: RelayLink) -> None:
        """Say what has been carried so far."""
        totals = local.totals
        self._say(
            f"relay {'up' if link.is_up else 'away'}, {local.connection_count} connections, "
            f"{totals.proxied} proxied, {totals.direct} direct, {totals.blocked} blocked, "
            f"{totals.failed} failed, sent {totals.sent_bytes} bytes, "
            f"received {totals.received_bytes} bytes, UDP sent {totals.udp.sent}, "
            f"received {totals.udp.received}",
            event="status",
            relay_up=link.is_up,
            **local.status(),
        )

    def ended(self, local: LocalProxy, link: RelayLink) -> None:
        """Say for the last time what was carried, if it ever began."""
        if self._is_running:
            self._is_running = False
            self.status(local, link)


def _example(local: LocalProxy) -> str:
    if local.socks is not None:
        return f"curl --proxy socks5h://{local.socks} https://example.org/"
    return f"curl --proxy http://{local.http} https://example.org/"
