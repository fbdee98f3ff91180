"""Owns `ghostctl tunnel udp --bind`: public UDP ports at a relay that lead to local programs."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import assert_never

import orjson

from masque_relay.cli.client_report import ClientReport, write_whole
from masque_relay.cli.relay_options import RelayChoice
from masque_relay.cli.until_signal import on_status_signal, until_signal
from masque_relay.client import RelayLink, open_bound_udp
from masque_relay.client.address import parse_listen
from masque_relay.client.bound_forward import BoundForward
from masque_relay.client.errors import AddressError
from masque_relay.client.events import BindEvent, ClientEvent, PortBound, PortLost, RelayAway
from masque_relay.client.limits import BoundForwardLimits
from masque_relay.contract.address import Endpoint


def parse_local_program(text: str) -> Endpoint:
    """Return the local program for ``ADDRESS:PORT`` or ``:PORT``.

    Raises:
        AddressError: no IP address, or no port.
    """
    endpoint = parse_listen(text)
    if endpoint.port == 0:
        raise AddressError(f"{text!r}: port 0 is no program", hint="name the port it listens on")
    return endpoint


class BindReport(ClientReport):
    """Prints public ports, losses and status."""

    def ready(self, forwards: Sequence[BoundForward], ready_file: Path | None) -> None:
        """Say where remote peers reach the programs."""
        self._is_running = True
        for forward in forwards:
            self._bound(forward.target, forward.public)
        if ready_file is not None:
            told = {
                "relay": self._relay,
                "binds": [
                    {"target": str(forward.target), "public": [str(end) for end in forward.public]}
                    for forward in forwards
                ],
            }
            write_whole(ready_file, orjson.dumps(told))

    def link_event(self, event: ClientEvent) -> None:
        """Say that the relay is away; an OnEvent. That it is back, the new ports say."""
        if isinstance(event, RelayAway):
            self._warn(
                f"{event.error.message}; trying again in {event.retry_in_s:.1f} s",
                event.error.hint,
                event="relay_away",
                retry_in_s=round(event.retry_in_s, 3),
            )

    def event(self, event: BindEvent) -> None:
        """Say that a port is there or gone."""
        match event:
            case PortBound():
                self._bound(event.target, event.public)
            case PortLost():
                self._warn(
                    f"{event.target}: {event.error.message}; "
                    f"asking for another port in {event.retry_in_s:.1f} s",
                    event.error.hint,
                    event="port_lost",
                    target=str(event.target),
                    retry_in_s=round(event.retry_in_s, 3),
                )
            case _:
                assert_never(event)

    def status(self, forwards: Sequence[BoundForward]) -> None:
        """Say what each port has carried."""
        for forward in forwards:
            public = ", ".join(map(str, forward.public)) or "no port"
            self._say(
                f"{public} -> {forward.target}: {forward.peer_count} peers,"
                f" received {forward.received_count}, sent {forward.sent_count},"
                f" dropped {forward.dropped_count}",
                event="status",
                **forward.status(),
            )

    def ended(self, forwards: Sequence[BoundForward]) -> None:
        """Say for the last time what was carried, if it ever began."""
        if self._is_running:
            self._is_running = False
            self.status(forwards)

    def _bound(self, target: Endpoint, public: Sequence[Endpoint]) -> None:
        addresses = [str(endpoint) for endpoint in public]
        self._say(
            f"public {', '.join(addresses)} -> {target} through {self._relay}",
            event="bound",
            relay=self._relay,
            target=str(target),
            public=addresses,
        )


async def run_binds(
    chosen: RelayChoice,
    targets: Sequence[Endpoint],
    report: BindReport,
    *,
    idle_timeout_s: float,
    ready_file: Path | None,
) -> None:
    """Hold one public port per target until a signal ends it.

    Raises:
        ClientError: the relay can't be reached or refuses at first.
    """
    link = RelayLink.to(chosen.address, chosen.options, on_event=report.link_event)
    open_bound = partial(
        open_bound_udp, link.open_tunnel, chosen.address.bind_path, limits=chosen.options.limits
    )
    limits = replace(BoundForwardLimits(), idle_timeout_s=idle_timeout_s)
    forwards = [
        BoundForward(target, open_bound, limits=limits, on_event=report.event) for target in targets
    ]
    try:
        async with until_signal(lambda: report.ended(forwards)):
            await link.start()
            for forward in forwards:
                await forward.start()
            report.ready(forwards, ready_file)
            on_status_signal(lambda: report.status(forwards))
            async with asyncio.TaskGroup() as group:
                group.create_task(link.run())
                for forward in forwards:
                    group.create_task(forward.run())
    finally:
        for forward in forwards:
            forward.close()
        await link.close()
