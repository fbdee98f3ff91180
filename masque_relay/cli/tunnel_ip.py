"""Owns `ghostctl tunnel ip`: some networks through a relay, by CONNECT-IP and a TUN device."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import ExitCode, fail, json_option
from masque_relay.cli.relay_options import RelayChoice, relay_options
from masque_relay.cli.tunnel_ip_report import IpTunnelReport
from masque_relay.cli.until_signal import on_status_signal, until_signal
from masque_relay.client import AddressError, ClientError, RelayLink, TunnelRequest
from masque_relay.client.dial import relay_endpoints
from masque_relay.client.dns_settings import DnsSettings
from masque_relay.client.ip_journal import Journal
from masque_relay.client.ip_routes import host_network, parse_network
from masque_relay.client.ip_tunnel import ip_request
from masque_relay.client.split_tunnel import MAX_MTU_BYTES, SplitTunnel, SplitTunnelSpec
from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IpScope
from masque_relay.dataplane.tun_device import MAX_NAME_BYTES
from masque_relay.wire.connect_ip import DEFAULT_TEMPLATE
from masque_relay.wire.errors import WireError

_FILE = click.Path(path_type=Path, dir_okay=False)


def _undo(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Take back what a crash has left, and leave; asked before anything is required."""
    del param
    if not value or ctx.resilient_parsing:
        return
    journal = Journal()
    if journal.is_of_live_process():
        fail("the tunnel that changed the name servers still runs", hint="end it instead")
    found = journal.undo()
    click.echo("the name servers are as before" if found else "nothing is left to undo")
    ctx.exit()


@click.command()
@relay_options
@click.option("--route", "routes", metavar="PREFIX", multiple=True, help="Into the tunnel.")
@click.option("--exclude", "excludes", metavar="PREFIX", multiple=True, help="Never into it.")
@click.option("--dns", "name_servers", metavar="ADDRESS", multiple=True, help="Asked through it.")
@click.option(
    "--device",
    default="ghostwire%d",
    show_default=True,
    help="Name of the TUN device; %d is counted.",
)
@click.option(
    "--mtu",
    "mtu_bytes",
    type=click.IntRange(576, 65_535),
    default=MAX_MTU_BYTES,
    show_default=True,
    help="At most; the path may take less.",
)
@click.option(
    "--ip-template",
    metavar="PATH",
    default=DEFAULT_TEMPLATE,
    show_default=True,
    help="URI template of CONNECT-IP.",
)
@click.option(
    "--undo",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_undo,
    help="Take back what a tunnel that crashed has left, and leave.",
)
@click.option("--ready-file", type=_FILE, help="Write what is set up there, as JSON, once ready.")
@json_option
def ip(
    chosen: RelayChoice,
    routes: tuple[str, ...],
    excludes: tuple[str, ...],
    name_servers: tuple[str, ...],
    device: str,
    mtu_bytes: int,
    ip_template: str,
    ready_file: Path | None,
    as_json: bool,
) -> None:
    """Lead some networks through a relay until Ctrl-C or SIGTERM: a split tunnel.

    Makes a TUN device with the address that the relay gives, and routes to it; needs root or
    CAP_NET_ADMIN. The relay's own addresses never go into the tunnel, and networks of this machine
    that are narrower than a --route stay as they are. When the relay was away the same addresses
    are asked for, and open connections go on. SIGUSR1 prints a status line.

    Everything is taken back at the end. After a crash the system has removed device and routes
    already; the name servers of --dns are taken back by the next start, or by --undo.

    \b
    Examples:
      ghostctl tunnel ip --relay https://relay.example --token-file token --route 10.0.0.0/8
      ghostctl tunnel ip --relay https://relay.example --token-file token \\
          --route 0.0.0.0/0 --route ::/0 --exclude 192.168.0.0/16 --dns 9.9.9.9
      ghostctl tunnel ip --undo

    \b
    Exit codes: 1 the device cannot be set up, 2 bad arguments, 3 refused by the relay,
    4 relay unreachable or not trusted, 5 no answer in time.
    """
    report = IpTunnelReport(str(chosen.address), as_json=as_json, ready_file=ready_file)
    if not routes:
        fail(
            "no --route: nothing would go into the tunnel",
            hint="--route 10.0.0.0/8, or everything: --route 0.0.0.0/0 --route ::/0",
            exit_code=ExitCode.USAGE,
        )
    try:
        request = _request(ip_template)
        spec = SplitTunnelSpec(
            routes=tuple(map(parse_network, routes)),
            excluded=tuple(map(parse_network, excludes)),
            name_servers=tuple(map(_name_server, name_servers)),
            device=_device(device),
            mtu_bytes=mtu_bytes,
        )
        asyncio.run(_run(chosen, spec, request, report))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


async def _run(
    chosen: RelayChoice, spec: SplitTunnelSpec, request: TunnelRequest, report: IpTunnelReport
) -> None:
    journal = Journal()
    if not journal.is_of_live_process():
        journal.undo()
    # Found out once: later the name servers may be reached through the tunnel only.
    endpoints = await relay_endpoints(chosen.address, chosen.options.limits)
    relay_addresses = tuple(endpoint.address for endpoint in endpoints)
    address = replace(chosen.address, addresses=relay_addresses)
    spec = replace(spec, excluded=(*spec.excluded, *map(host_network, relay_addresses)))
    link = RelayLink.to(address, chosen.options, on_event=report.link_event)
    dns = DnsSettings(spec.name_servers, journal) if spec.name_servers else None
    tunnel = SplitTunnel(spec, link, request, dns=dns, on_event=report.event)
    try:
        async with until_signal(lambda: report.ended(tunnel)):
            report.step(f"connecting to {chosen.address}")
            await link.start()
            report.step("asking for addresses")
            await tunnel.start()
            on_status_signal(lambda: report.status(tunnel))
            async with asyncio.TaskGroup() as group:
                group.create_task(link.run())
                group.create_task(tunnel.run())
    except ExceptionGroup as group:
        failures = group.subgroup(ClientError)
        if failures is None:
            raise
        raise _first(failures) from None
    finally:
        tunnel.close()
        await link.close()


def _first(failures: ExceptionGroup[ClientError]) -> ClientError:
    """Return one of the failures of the tasks; the others are cancellations or follow from it."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _request(template: str) -> TunnelRequest:
    try:
        return ip_request(IpScope(), template=template)
    except WireError as error:
        raise AddressError(
            f"template {template!r}: {error.detail}", hint=f"the default is {DEFAULT_TEMPLATE}"
        ) from error


def _name_server(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise AddressError(
            f"--dns {text!r} is no IP address", hint="write an address such as 9.9.9.9"
        ) from None


def _device(name: str) -> str:
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES or any(c in name for c in "/ \t"):
        raise AddressError(
            f"--device {name!r} is no device name", hint="at most 15 letters, digits, - and _"
        )
    return name
