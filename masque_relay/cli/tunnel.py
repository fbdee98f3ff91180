"""Owns `ghostctl tunnel`: carry local UDP ports through a relay, and check that a relay would."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import ExitCode, fail, json_option, print_json
from masque_relay.cli.tunnel_report import TunnelReport
from masque_relay.client import (
    Basic,
    Bearer,
    ClientError,
    ClientLimits,
    Credential,
    ForwardSpec,
    MutualTls,
    RelayAddress,
    RelayClient,
    RelayLink,
    RelayOptions,
    UdpForward,
    parse_target,
)
from masque_relay.client.limits import ForwardLimits
from masque_relay.client.mtu import describe_payload
from masque_relay.client.settle import settled_payload_bytes

Command = TypeVar("Command", bound=Callable[..., object])

_FILE = click.Path(path_type=Path, dir_okay=False)


def relay_options(command: Command) -> Command:
    """Add the options that say which relay, and how to be let in."""
    options = (
        click.option(
            "--relay", "relay_url", required=True, metavar="URL", help="https://HOST:PORT"
        ),
        click.option("--template", metavar="PATH", help="URI template, if not the default one."),
        click.option("--ca", "ca_file", type=_FILE, help="Trust only these certificates (PEM)."),
        click.option("--token-file", type=_FILE, help="A file with a bearer token."),
        click.option("--basic-file", type=_FILE, help="A file with user:password."),
        click.option("--client-cert", type=_FILE, help="Our certificate (PEM), with --client-key."),
        click.option("--client-key", type=_FILE, help="Its private key (PEM)."),
        click.option(
            "--connect-timeout",
            "connect_timeout_s",
            type=click.FloatRange(min=0.1),
            default=ClientLimits().connect_timeout_s,
            show_default=True,
            help="Seconds to wait for the relay's handshake.",
        ),
        click.option(
            "--open-timeout",
            "open_timeout_s",
            type=click.FloatRange(min=0),
            default=ClientLimits().open_timeout_s,
            show_default=True,
            help="Seconds to wait for the relay's answer to one tunnel request.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def tunnel() -> None:
    """Carry local UDP ports through a relay.

    \b
    Examples:
      ghostctl tunnel udp --relay https://relay.example --token-file token 127.0.0.1:5353=9.9.9.9:53
      ghostctl tunnel check --relay https://relay.example --token-file token 9.9.9.9:53
    """


@tunnel.command()
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
@json_option
@click.argument("forwards", metavar="LISTEN=TARGET...", nargs=-1, required=True)
def udp(
    relay_url: str,
    template: str | None,
    ca_file: Path | None,
    token_file: Path | None,
    basic_file: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    connect_timeout_s: float,
    open_timeout_s: float,
    idle_timeout_s: float,
    ready_file: Path | None,
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

    \b
    Exit codes: 2 bad arguments, 3 refused by the relay, 4 relay unreachable or not trusted,
    5 no answer in time.
    """
    try:
        address = RelayAddress.parse(relay_url, template=template)
        specs = [ForwardSpec.parse(text) for text in forwards]
    except ClientError as error:
        fail_with(error)
    options = relay_options_from(
        ca_file, token_file, basic_file, client_cert, client_key, connect_timeout_s, open_timeout_s
    )
    report = TunnelReport(str(address), as_json=as_json)
    limits = ForwardLimits(idle_timeout_s=idle_timeout_s)
    try:
        asyncio.run(_forward(address, options, specs, limits, report, ready_file))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


@tunnel.command()
@relay_options
@json_option
@click.argument("target")
def check(
    relay_url: str,
    template: str | None,
    ca_file: Path | None,
    token_file: Path | None,
    basic_file: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    connect_timeout_s: float,
    open_timeout_s: float,
    as_json: bool,
    target: str,
) -> None:
    """Ask a relay for one tunnel to TARGET (HOST:PORT), say what fits through, and leave.

    Nothing is sent to the target.

    \b
    Examples:
      ghostctl tunnel check --relay https://127.0.0.1:4433 --ca state/ca.pem \\
          --token-file state/token 127.0.0.1:53

    Exit codes as of `ghostctl tunnel udp`.
    """
    options = relay_options_from(
        ca_file, token_file, basic_file, client_cert, client_key, connect_timeout_s, open_timeout_s
    )
    try:
        address = RelayAddress.parse(relay_url, template=template)
        found = asyncio.run(_check(address, options, target))
    except ClientError as error:
        fail_with(error)
    if as_json:
        print_json(found)
        return
    click.echo(f"{address} lets you through to {target} (address {found['next_hop'] or 'unknown'})")
    size_bytes, reliable = found["max_payload_bytes"], found["reliable"]
    click.echo(describe_payload(int(str(size_bytes)), reliable=bool(reliable)))


async def _check(address: RelayAddress, options: RelayOptions, target: str) -> dict[str, object]:
    wanted = parse_target(target)
    async with RelayClient(address, options) as relay:
        opened = await relay.start_udp(wanted)
        payload_bytes = await settled_payload_bytes(lambda: relay.connection.max_udp_payload_bytes)
        found: dict[str, object] = {
            "relay": str(address),
            "peer": str(relay.peer),
            "target": str(wanted),
            "next_hop": opened.next_hop,
            "max_payload_bytes": payload_bytes,
            "reliable": opened.reliable,
        }
        opened.close()
        return found


async def _forward(
    address: RelayAddress,
    options: RelayOptions,
    specs: Sequence[ForwardSpec],
    limits: ForwardLimits,
    report: TunnelReport,
    ready_file: Path | None,
) -> None:
    link = RelayLink(partial(connect_relay, address, options), on_event=report.event)
    forwards = [UdpForward(spec, link, limits=limits, on_event=report.event) for spec in specs]
    loop = asyncio.get_running_loop()
    life = asyncio.timeout(None)

    def end() -> None:
        report.ended(forwards, link)
        life.reschedule(loop.time())

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        async with life:
            await _start(link, forwards)
            report.ready(forwards, link, ready_file)
            loop.add_signal_handler(signal.SIGUSR1, report.status, forwards, link)
            await _run(link, forwards)
    except TimeoutError:
        if not life.expired():
            raise
    finally:
        for forward in forwards:
            forward.close()
        await link.close()


async def _start(link: RelayLink, forwards: Sequence[UdpForward]) -> None:
    await link.start()
    for forward in forwards:
        await forward.start()
    await settled_payload_bytes(lambda: link.max_payload_bytes)


async def _run(link: RelayLink, forwards: Sequence[UdpForward]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(link.run())
        for forward in forwards:
            group.create_task(forward.run())


async def connect_relay(address: RelayAddress, options: RelayOptions) -> RelayClient:
    """Open one connection to a relay, or raise ClientError."""
    client = RelayClient(address, options)
    await client.connect()
    return client


def relay_options_from(
    ca_file: Path | None,
    token_file: Path | None,
    basic_file: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    connect_timeout_s: float,
    open_timeout_s: float,
) -> RelayOptions:
    """Return what the options of :func:`relay_options` mean; leave where they contradict."""
    given = [value for value in (token_file, basic_file, client_cert or client_key) if value]
    if len(given) > 1:
        fail(
            "give one credential only",
            hint="one of --token-file, --basic-file, or --client-cert with --client-key",
            exit_code=ExitCode.USAGE,
        )
    credential: Credential | None = None
    if token_file is not None:
        credential = Bearer(file=token_file)
    elif basic_file is not None:
        credential = Basic(file=basic_file)
    elif client_cert is not None and client_key is not None:
        credential = MutualTls(certificate_file=client_cert, key_file=client_key)
    elif client_cert is not None or client_key is not None:
        fail("--client-cert and --client-key come together", exit_code=ExitCode.USAGE)
    return RelayOptions(
        ca_file=ca_file,
        credential=credential,
        limits=ClientLimits(connect_timeout_s=connect_timeout_s, open_timeout_s=open_timeout_s),
    )
