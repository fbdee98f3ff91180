"""Owns `ghostctl bench --serve-echo`: an echo for measurements through a relay, until Ctrl-C."""

import asyncio

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import print_json
from masque_relay.cli.until_signal import until_signal
from masque_relay.client import ClientError
from masque_relay.client.address import parse_listen
from masque_relay.client.bench.echo import Echo, serving_echo
from masque_relay.contract.address import Endpoint


def serve_echo(listen_text: str, *, max_answers_per_s: int | None, as_json: bool) -> None:
    """Answer on ADDRESS:PORT until SIGINT or SIGTERM; leave where that can't be had."""
    try:
        listen = parse_listen(listen_text)
        asyncio.run(_serve(listen, max_answers_per_s, as_json=as_json))
    except ClientError as error:
        fail_with(error)


async def _serve(listen: Endpoint, max_answers_per_s: int | None, *, as_json: bool) -> None:
    with serving_echo(listen, max_answers_per_s=max_answers_per_s) as (local, echo):
        async with until_signal(lambda: _say_ended(echo, as_json=as_json)):
            _say_ready(local, as_json=as_json)
            await asyncio.Event().wait()


def _say_ready(local: Endpoint, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "ready", "listen": str(local)})
        return
    click.echo(f"echo on {local}: answers questions of `ghostctl bench` alone, size for size")


def _say_ended(echo: Echo, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "event": "ended",
                "answered_count": echo.answered_count,
                "ignored_count": echo.ignored_count,
                "capped_count": echo.capped_count,
            }
        )
        return
    click.echo(
        f"answered {echo.answered_count}; ignored {echo.ignored_count} that were no questions, "
        f"and {echo.capped_count} beyond the cap"
    )
