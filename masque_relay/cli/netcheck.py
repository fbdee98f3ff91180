"""Owns `ghostctl netcheck`: which ways lead to a relay from this network."""

import asyncio
from pathlib import Path

import click

from masque_relay.cli.output import ExitCode, json_option, print_json, print_table
from masque_relay.cli.peer_node import (
    load_identity,
    proxy_argument,
    proxy_option,
    token_of,
    turn_argument,
    turn_option,
)
from masque_relay.cli.relay_options import RelayChoice, relay_options
from masque_relay.client.mesh.nat_kind import NatKind
from masque_relay.client.mesh.netcheck import NetReport, WayReport, WayState, check_network
from masque_relay.client.mesh.ways import ways_to

_NAT_WORDS = {
    NatKind.NONE: "none: the relay sees this machine's own address",
    NatKind.FULL_CONE: "full cone: direct paths work",
    NatKind.ADDRESS_RESTRICTED: "address-restricted: direct paths work",
    NatKind.PORT_RESTRICTED: "port-restricted: direct paths work, but not to a symmetric NAT",
    NatKind.SYMMETRIC: "symmetric: direct paths only to peers that have no NAT, or an open one",
    NatKind.SOME: "there is one; this relay can't tell which",
    NatKind.UNKNOWN: "unknown: no answer by STUN",
}


@click.command()
@relay_options
@proxy_option
@turn_option
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="This peer's private key, for a token that is bound to it; otherwise a new one is used."
    " A peer that is at the relay with the same key now has to connect again.",
)
@json_option
def netcheck(
    chosen: RelayChoice,
    proxy: str | None,
    turn_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Try every way to a relay from here, and say what works and how well.

    \b
    Examples:
      ghostctl netcheck --relay https://relay.example --token-file token
      ghostctl netcheck --relay https://relay.example --token-file token --json

    \b
    Exit codes:
      0  a way works
      3  ways lead there, but the relay does not let us in
      4  no way leads there
    """
    url = proxy_argument(proxy, chosen)
    report = asyncio.run(
        check_network(
            ways_to(chosen.address, chosen.options, proxy=url, turn=turn_argument(turn_file)),
            token=token_of(chosen),
            relay_name=chosen.address.host,
            identity=None if key_file is None else load_identity(key_file),
        )
    )
    if as_json:
        print_json({"relay": str(chosen.address), **_as_json(report)})
    else:
        _print(report)
    raise SystemExit(int(_exit_code(report)))


def _exit_code(report: NetReport) -> ExitCode:
    states = {way.state for way in report.ways}
    if WayState.WORKS in states:
        return ExitCode.OK
    return ExitCode.REFUSED if WayState.REFUSED in states else ExitCode.UNREACHABLE


def _print(report: NetReport) -> None:
    columns = ("way", "state", "connect", "welcome", "round trip", "datagram", "why")
    print_table(None, columns, [_row(way) for way in report.ways])
    udp = {True: "blocked", False: "works", None: "unknown"}[report.udp_blocked]
    seen_as = report.nat.seen_as
    nat = _NAT_WORDS[report.nat.kind]
    click.echo(f"UDP: {udp}")
    click.echo(f"NAT: {nat}" + ("" if seen_as is None else f"; seen as {seen_as[0]}:{seen_as[1]}"))
    if report.clock_skew_s is not None:
        click.echo(f"clock: the relay's is {report.clock_skew_s:+d} s")
    if report.relays:
        click.echo(f"relays: {', '.join(report.relays)}")
    best = report.best
    click.echo("no way works" if best is None else f"a peer would use: {best}")


def _row(way: WayReport) -> tuple[str, ...]:
    size_bytes = "any" if way.datagram_bytes is None else f"{way.datagram_bytes} B"
    return (
        str(way.kind),
        str(way.state),
        _shown(way.connect_ms),
        _shown(way.welcome_ms),
        _shown(way.rtt_ms),
        size_bytes if way.state is WayState.WORKS else "",
        way.why,
    )


def _shown(time_ms: float | None) -> str:
    return "" if time_ms is None else f"{time_ms:.1f} ms"


def _as_json(report: NetReport) -> dict[str, object]:
    seen_as = report.nat.seen_as
    return {
        "best": report.best,
        "ways": [
            {
                "way": way.kind,
                "state": way.state,
                "connect_ms": way.connect_ms,
                "welcome_ms": way.welcome_ms,
                "rtt_ms": way.rtt_ms,
                "datagram_bytes": way.datagram_bytes,
                "remote": way.remote,
                "why": way.why,
            }
            for way in report.ways
        ],
        "udp_blocked": report.udp_blocked,
        "nat": report.nat.kind,
        "seen_as": None if seen_as is None else {"address": seen_as[0], "port": seen_as[1]},
        "clock_skew_s": report.clock_skew_s,
        "relays": list(report.relays),
    }
