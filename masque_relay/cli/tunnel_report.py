"""Owns what `ghostctl tunnel udp` says while it runs: lines for people, JSON lines for scripts."""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import click
import orjson

from masque_relay.cli.client_report import ClientReport, write_whole
from masque_relay.client import RelayLink, UdpForward
from masque_relay.client.events import (
    ClientEvent,
    OversizeDropped,
    PayloadSizeChanged,
    RelayAway,
    RelayConnected,
    TunnelDenied,
)
from masque_relay.client.mtu import describe_payload, oversize_advice


class TunnelReport(ClientReport):
    """Prints events and status of the forwards of one command."""

    def ready(
        self, forwards: Sequence[UdpForward], link: RelayLink, ready_file: Path | None
    ) -> None:
        """Say that every forward listens and the relay allows its target."""
        self._is_running = True
        size_bytes, reliable = link.max_payload_bytes, link.reliable
        described = [
            {"listen": str(forward.spec.listen), "target": str(forward.spec.target)}
            for forward in forwards
        ]
        for entry in described:
            self._say(
                f"{entry['listen']} -> {entry['target']} through {self._relay}",
                event="ready",
                relay=self._relay,
                http=link.http_version,
                max_payload_bytes=size_bytes,
                reliable=reliable,
                **entry,
            )
        if not self._as_json:
            click.echo(f"ready: {describe_payload(size_bytes, reliable=reliable)}")
        if ready_file is not None:
            told = {
                "relay": self._relay,
                "http": link.http_version,
                "max_payload_bytes": size_bytes,
                "reliable": reliable,
                "forwards": described,
            }
            write_whole(ready_file, orjson.dumps(told))

    def event(self, event: ClientEvent) -> None:
        """Say what happened; an OnEvent."""
        match event:
            case RelayConnected():
                if self._is_running:
                    self._say("the relay is back", event="relay_connected", peer=str(event.peer))
            case RelayAway():
                self._warn(
                    f"{event.error.message}; trying again in {event.retry_in_s:.1f} s",
                    event.error.hint,
                    event="relay_away",
                    retry_in_s=round(event.retry_in_s, 3),
                )
            case PayloadSizeChanged():
                fits = describe_payload(event.max_payload_bytes, reliable=event.reliable)
                self._say(
                    f"{event.forward}: the path changed: {fits}",
                    event="max_payload_changed",
                    forward=str(event.forward),
                    max_payload_bytes=event.max_payload_bytes,
                    reliable=event.reliable,
                )
            case OversizeDropped():
                self._warn(
                    f"{event.forward}: {event.dropped_count} datagrams too large, dropped",
                    oversize_advice(event.largest_bytes, event.max_payload_bytes),
                    event="oversize_dropped",
                    forward=str(event.forward),
                    dropped=event.dropped_count,
                    largest_bytes=event.largest_bytes,
                    max_payload_bytes=event.max_payload_bytes,
                )
            case TunnelDenied():
                self._warn(
                    f"{event.forward}: {event.error.message}; "
                    f"asking again after {event.retry_in_s:.1f} s",
                    event.error.hint,
                    event="tunnel_refused",
                    forward=str(event.forward),
                    status=event.error.status,
                    error=event.error.error,
                )
            case _:
                assert_never(event)

    def status(self, forwards: Sequence[UdpForward], link: RelayLink) -> None:
        """Say what each forward has carried and dropped so far."""
        for forward in forwards:
            self._say(
                _status_line(forward, is_up=link.is_up),
                event="status",
                relay_up=link.is_up,
                **forward.status(),
            )

    def ended(self, forwards: Sequence[UdpForward], link: RelayLink) -> None:
        """Say for the last time what was carried, if it ever began."""
        if self._is_running:
            self._is_running = False
            self.status(forwards, link)


def _status_line(forward: UdpForward, *, is_up: bool) -> str:
    totals = forward.totals()
    drops = {
        "too large": totals.oversize,
        "queue full": totals.send_dropped,
        "relay away": totals.pending_dropped,
        "refused": totals.refused_dropped,
        "local socket full": totals.receive_dropped,
    }
    dropped = ", ".join(f"{count} {cause}" for cause, count in drops.items() if count)
    return (
        f"{forward.spec.listen} -> {forward.spec.target}: relay {'up' if is_up else 'away'}, "
        f"{forward.peer_count} peers, sent {totals.sent} ({totals.sent_bytes} bytes), "
        f"received {totals.received} ({totals.received_bytes} bytes), dropped {dropped or 'none'}"
    )
