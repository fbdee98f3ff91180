"""Owns `ghostctl tunnel check`: would this relay let me through, and what fits?"""

import asyncio

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import json_option, print_json
from masque_relay.cli.relay_options import RelayChoice, relay_options
from masque_relay.client import ClientError, RelayClient, parse_target
from masque_relay.client.mtu import describe_payload
from masque_relay.client.settle import settled_payload_bytes


@click.command()
@relay_options
@json_option
@click.argument("target")
def check(chosen: RelayChoice, as_json: bool, target: str) -> None:
    """Ask a relay for one tunnel to TARGET (HOST:PORT), say what fits through, and leave.

    Nothing is sent to the target.

    \b
    Examples:
      ghostctl tunnel check --relay https://127.0.0.1:4433 --ca state/ca.pem \\
          --token-file state/token 127.0.0.1:53

    Exit codes as of `ghostctl tunnel udp`.
    """
    try:
        found = asyncio.run(_check(chosen, target))
    except ClientError as error:
        fail_with(error)
    if as_json:
        print_json(found)
        return
    click.echo(
        f"{chosen.address} lets you through to {target} (address {found['next_hop'] or 'unknown'})"
    )
    size_bytes, reliable = found["max_payload_bytes"], found["reliable"]
    fits = describe_payload(int(str(size_bytes)), reliable=bool(reliable))
    click.echo(f"{fits}; by HTTP/{found['http']}")


async def _check(chosen: RelayChoice, target: str) -> dict[str, object]:
    wanted = parse_target(target)
    async with RelayClient(chosen.address, chosen.options) as relay:
        opened = await relay.start_udp(wanted)
        payload_bytes = await settled_payload_bytes(lambda: relay.connection.max_udp_payload_bytes)
        found: dict[str, object] = {
            "relay": str(chosen.address),
            "peer": str(relay.peer),
            "http": relay.connection.http_version,
            "target": str(wanted),
            "next_hop": opened.next_hop,
            "max_payload_bytes": payload_bytes,
            "reliable": opened.reliable,
        }
        opened.close()
        return found
