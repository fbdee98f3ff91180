"""Owns `ghostctl proxy`: SOCKS5 and HTTP on local ports for the user's programs, over a relay."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import ExitCode, fail, json_option
from masque_relay.cli.proxy_report import ProxyReport
from masque_relay.cli.relay_options import RelayChoice, relay_options
from masque_relay.cli.until_signal import on_status_signal, until_signal
from masque_relay.client import AddressError, ClientError, RelayLink, RelayOptions
from masque_relay.client.address import parse_listen
from masque_relay.client.credentials import read_login
from masque_relay.client.limits import ProxyLimits
from masque_relay.client.proxy import LocalProxy
from masque_relay.client.pvd import PvdDocument, fetch_pvd
from masque_relay.client.socks import Login
from masque_relay.client.split import SplitRule, SplitRules, Way, read_rules
from masque_relay.contract.address import Endpoint
from masque_relay.wire.connect_tcp import DataCapsuleTypes

_FILE = click.Path(path_type=Path, dir_okay=False)
_OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the command line asks for."""

    relay: RelayChoice
    socks: Endpoint | None
    http: Endpoint | None
    rules: SplitRules
    login: Login | None
    limits: ProxyLimits


@click.command()
@relay_options
@click.option(
    "--listen", default="127.0.0.1:1080", show_default=True, metavar="ADDRESS:PORT",
    help="Where SOCKS5 listens; port 0 takes a free one, `off` leaves it out.",
)  # fmt: skip
@click.option("--http-listen", metavar="ADDRESS:PORT", help="Where the HTTP proxy listens, if any.")
@click.option(
    "--rule", "rules", multiple=True, metavar="ACTION:WHERE",
    help="proxy, direct or block, and for what; the first that matches decides. Repeatable.",
)  # fmt: skip
@click.option("--rules-file", type=_FILE, help="Further rules, one a line, after those of --rule.")
@click.option(
    "--default", "default_way", type=click.Choice([way.value for way in Way]),
    help="What no rule matches; by default proxy, with --from-pvd what the relay says.",
)  # fmt: skip
@click.option(
    "--from-pvd", is_flag=True,
    help="Ask the relay which targets it leads to; all others go past it. --rule comes first.",
)  # fmt: skip
@click.option(
    "--connect-tcp", is_flag=True,
    help="Ask for TCP by connect-tcp with its capsules, not by classic CONNECT.",
)  # fmt: skip
@click.option("--user-file", type=_FILE, help="A file with user:password that programs must give.")
@click.option(
    "--allow-remote", is_flag=True,
    help="Listen beyond loopback without --user-file: everybody there uses your credential.",
)  # fmt: skip
@click.option(
    "--max-connections", "connection_count", type=click.IntRange(min=1),
    default=ProxyLimits().connections, show_default=True, help="Programs' connections at once.",
)  # fmt: skip
@click.option("--ready-file", type=_FILE, help="Write what listens where, as JSON, once ready.")
@json_option
def proxy(
    chosen: RelayChoice,
    listen: str,
    http_listen: str | None,
    rules: tuple[str, ...],
    rules_file: Path | None,
    default_way: str | None,
    from_pvd: bool,
    connect_tcp: bool,
    user_file: Path | None,
    allow_remote: bool,
    connection_count: int,
    ready_file: Path | None,
    as_json: bool,
) -> None:
    """Serve SOCKS5 and HTTP proxy requests of local programs through a relay, until Ctrl-C.

    SOCKS5 takes CONNECT and UDP ASSOCIATE, the HTTP proxy CONNECT and http:// URLs. Names go to
    the relay as names; nothing is looked up here, except where a rule says `direct`. SIGUSR1
    prints a status line.

    WHERE is a domain (with all below it), an address or subnet (matches literal addresses only),
    or *; each with :PORT or :PORT-PORT if wanted. UDP goes through the relay or is dropped.

    \b
    Examples:
      ghostctl proxy --relay https://127.0.0.1:4433 --ca state/ca.pem --token-file state/token
      curl --proxy socks5h://127.0.0.1:1080 https://example.org/
      ghostctl proxy --relay https://relay.example --token-file token \\
          --http-listen 127.0.0.1:8080 \\
          --rule direct:intranet.example --rule direct:10.0.0.0/8 --rule 'block:*:25'

    \b
    Exit codes: 1 a port is taken, 2 bad arguments, 3 no --from-pvd for this credential,
    4 relay unreachable or not trusted, 5 no answer in time.
    """
    try:
        plan = _Plan(
            relay=replace(chosen, options=_with_method(chosen.options, connect_tcp=connect_tcp)),
            socks=None if listen == _OFF else parse_listen(listen),
            http=parse_listen(http_listen) if http_listen else None,
            rules=_split_rules(
                _own_rules(rules, rules_file),
                asyncio.run(fetch_pvd(chosen.address, chosen.options)) if from_pvd else None,
                default_way,
            ),
            login=read_login(user_file) if user_file is not None else None,
            limits=ProxyLimits(connections=connection_count),
        )
    except ClientError as error:
        fail_with(error)
    _check_listeners(plan, allow_remote=allow_remote)
    report = ProxyReport(str(plan.relay.address), as_json=as_json)
    try:
        asyncio.run(_run(plan, report, ready_file))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


def _with_method(options: RelayOptions, *, connect_tcp: bool) -> RelayOptions:
    """Return the options with the way to ask for TCP; the relay's capsule types are the draft's."""
    return replace(options, connect_tcp=DataCapsuleTypes() if connect_tcp else None)


def _own_rules(texts: Sequence[str], file: Path | None) -> list[SplitRule]:
    rules = [SplitRule.parse(text) for text in texts]
    if file is not None:
        try:
            rules += read_rules(file.read_text(encoding="utf-8"), origin=str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise AddressError(f"cannot read the rules file {file}: {error}") from error
    return rules


def _split_rules(
    own: Sequence[SplitRule], pvd: PvdDocument | None, default_way: str | None
) -> SplitRules:
    """Return the user's rules, then the relay's; the user's word on the rest counts."""
    default = None if default_way is None else Way(default_way)
    if pvd is None:
        return SplitRules(own, default=default or Way.PROXY)
    return pvd.split_rules(own, default=default)


def _check_listeners(plan: _Plan, *, allow_remote: bool) -> None:
    """Refuse to serve the network with this user's credential, unless that is meant."""
    listeners = [endpoint for endpoint in (plan.socks, plan.http) if endpoint is not None]
    if not listeners:
        fail(
            "nothing to listen on", hint="give --listen or --http-listen", exit_code=ExitCode.USAGE
        )
    for endpoint in listeners:
        if not endpoint.address.is_loopback and plan.login is None and not allow_remote:
            fail(
                f"{endpoint} is not a loopback address: whoever reaches it would use the relay "
                "with your credential",
                hint="give --user-file FILE (user:password), or --allow-remote if that is meant",
                exit_code=ExitCode.USAGE,
            )


async def _run(plan: _Plan, report: ProxyReport, ready_file: Path | None) -> None:
    link = RelayLink.to(plan.relay.address, plan.relay.options, on_event=report.event)
    local = LocalProxy(
        link,
        socks=plan.socks,
        http=plan.http,
        rules=plan.rules,
        login=plan.login,
        limits=plan.limits,
    )
    try:
        async with until_signal(lambda: report.ended(local, link)):
            await link.start()
            local.start()
            report.ready(local, ready_file)
            on_status_signal(lambda: report.status(local, link))
            async with asyncio.TaskGroup() as group:
                group.create_task(link.run())
                group.create_task(local.run())
    finally:
        local.close()
        await link.close()
