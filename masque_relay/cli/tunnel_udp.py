"""Owns `ghostctl tunnel udp`: local UDP ports that a relay carries to targets, and --bind."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import ExitCode, fail, json_option
from masque_relay.cli.relay_options import RelayChoice, relay_options
from masque_relay.cli.tunnel_bind import BindReport, parse_local_program, run_binds
from masque_relay.cli.tunnel_report import TunnelReport
from masque_relay.cli.until_signal import on_status_signal, until_signal
from masque_relay.client import ClientError, ForwardLimits, ForwardSpec, RelayLink, UdpForward
from masque_relay.client.settle import settled_payload_bytes

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@relay_options
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=click.FloatRange(min=1),
    default=ForwardLimits().idle_timeout_s,
    show_default=True,
    help="Seconds until a silent local program loses its tunnel.",
)
@click.option("--ready-file", type=_FILE, help="Write what listens there, as JSON, once ready.")
@click.option(
    "--bind",
    "binds",
    metavar="LOCAL",
    multiple=True,
    help="Instead of forwards: a public port at the relay for the program at LOCAL.",
)
@json_option
@click.argument("forwards", metavar="LISTEN=TARGET...", nargs=-1)
def udp(
    chosen: RelayChoice,
    idle_timeout_s: float,
    ready_file: Path | None,
    binds: tuple[str, ...],
    as_json: bool,
    forwards: tuple[str, ...],
) -> None:
    """Forward local UDP ports to targets through a relay until Ctrl-C or SIGTERM.

    LISTEN is ADDRESS:PORT, or :PORT for 127.0.0.1; port 0 takes a free one. TARGET is HOST:PORT;
    the relay looks names up. IPv6 addresses stand in brackets. Each local program that sends gets
    a tunnel of its own. SIGUSR1 prints a status line per forward.

    \b
    Examples:
      ghostctl tunnel udp --relay https://127.0.0.1:4433 --ca state/ca.pem \\
          --token-file state/token 127.0.0.1:5353=9.9.9.9:53
      ghostctl tunnel udp --relay https://relay.example --token-file token \\
          '[::1]:5353=dns.example:53' 127.0.0.1:51820=vpn.example:51820

    With --bind the relay listens for a local program instead (ADDRESS:PORT, or :PORT for
    127.0.0.1): it prints the public address, and gives every remote peer a local port of its own,
    so that the program can tell them apart. Only a relay that has bound UDP switched on does that.

    \b
    Example:
      ghostctl tunnel udp --relay https://relay.example --token-file token --bind :51820

    \b
    Exit codes: 2 bad arguments, 3 refused by the relay, 4 relay unreachable or not trusted,
    5 no answer in time.
    """
    if bool(binds) == bool(forwards):
        fail("give LISTEN=TARGET forwards, or --bind LOCAL", exit_code=ExitCode.USAGE)
    if binds:
        _bind(chosen, binds, idle_timeout_s, ready_file, as_json=as_json)
        return
    report = TunnelReport(str(chosen.address), as_json=as_json)
    try:
        specs = [ForwardSpec.parse(text) for text in forwards]
    except ClientError as error:
        fail_with(error)
    limits = ForwardLimits(idle_timeout_s=idle_timeout_s)
    try:
        asyncio.run(_forward(chosen, specs, limits, report, ready_file))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


def _bind(
    chosen: RelayChoice,
    binds: Sequence[str],
    idle_timeout_s: float,
    ready_file: Path | None,
    *,
    as_json: bool,
) -> None:
    report = BindReport(str(chosen.address), as_json=as_json)
    try:
        targets = [parse_local_program(text) for text in binds]
        asyncio.run(
            run_binds(chosen, targets, report, idle_timeout_s=idle_timeout_s, ready_file=ready_file)
        )
    except ClientError as error:
        report.failed(error)
        fail_with(error)


async def _forward(
    chosen: RelayChoice,
    specs: Sequence[ForwardSpec],
    limits: ForwardLimits,
    report: TunnelReport,
    ready_file: Path | None,
) -> None:
    link = RelayLink.to(chosen.address, chosen.options, on_event=report.event)
    forwards = [UdpForward(spec, link, limits=limits, on_event=report.event) for spec in specs]
    try:
        async with until_signal(lambda: report.ended(forwards, link)):
            await link.start()
            for forward in forwards:
                await forward.start()
            await settled_payload_bytes(lambda: link.max_payload_bytes)
            report.ready(forwards, link, ready_file)
            on_status_signal(lambda: report.status(forwards, link))
            async with asyncio.TaskGroup() as group:
                group.create_task(link.run())
                for forward in forwards:
                    group.create_task(forward.run())
    finally:
        for forward in forwards:
            forward.close()
        await link.close()
