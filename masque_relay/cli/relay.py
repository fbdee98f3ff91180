"""Owns `ghostctl relay`: run a relay, and manage a running one through its admin API."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import click
import orjson

from masque_relay.admin.address import admin_url
from masque_relay.admin.client import AdminClient, AdminRefusedError, AdminUnreachableError
from masque_relay.cli.output import (
    ExitCode,
    fail,
    json_option,
    print_json,
    print_table,
    program,
)
from masque_relay.config import (
    LogFormat,
    RelayConfig,
    load_config,
    parse_admin_address,
    parse_listen_address,
)
from masque_relay.config.dev_state import DevState, prepare_dev_state
from masque_relay.contract.errors import ConfigError

if TYPE_CHECKING:
    from masque_relay.server import Serving

Command = TypeVar("Command", bound=Callable[..., object])

DEFAULT_STATE_DIR = Path("state")


class _InOrder(click.Group):
    """Lists the commands in the order in which they stand here: `run` first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder)
def relay() -> None:
    """Run a relay, and manage a running one.

    \b
    Examples:
      ghostctl relay run --dev --state-dir state
      ghostctl relay run /etc/ghostwire/relay.toml
      ghostctl relay status --state-dir state
      ghostctl relay sessions --json --state-dir state
    """


@relay.command()
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@click.option("--dev", is_flag=True, help="Make and use a development set-up in --state-dir.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where --dev keeps its files.  [default: state]",
)
@click.option("--listen", metavar="ADDR:PORT", help="Overrides listen.h3; port 0 = any.")
@click.option("--admin", metavar="ADDR:PORT", help="Overrides admin.listen; also unix:PATH.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write addresses and files there, as JSON, once the relay serves.",
)
@click.option(
    "--log-format",
    type=click.Choice([word.value for word in LogFormat]),
    help="Overrides log.format.",
)
@click.option(
    "--qlog-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Overrides quic.qlog_dir: a trace of each QUIC connection; slow.",
)
@click.option(
    "--keylog-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Overrides quic.keylog_file: TLS secrets. Whoever reads it can read the traffic.",
)
def run(
    config_file: Path | None,
    dev: bool,
    state_dir: Path | None,
    listen: str | None,
    admin: str | None,
    ready_file: Path | None,
    log_format: str | None,
    qlog_dir: Path | None,
    keylog_file: Path | None,
) -> None:
    """Run a relay in the foreground until SIGTERM.

    SIGTERM or Ctrl-C drains: tunnels may finish until drain.deadline_s. A second one ends at once.
    SIGHUP reloads policy, keys, certificates and limits without dropping tunnels.

    \b
    Examples:
      ghostctl relay run --dev --state-dir state
      ghostctl relay run --dev --listen 127.0.0.1:0 --admin 127.0.0.1:0 --ready-file ready.json
      ghostctl relay run --dev --qlog-dir qlog --keylog-file keys.log
      ghostctl relay run /etc/ghostwire/relay.toml
    """
    # Here, so that `ghostctl relay status` does not wait for the QUIC stack to load.
    from masque_relay.server import ConfigSource, Relay, RelayFiles, configure_logging  # noqa: PLC0415

    if dev == (config_file is not None):
        fail(
            "name either a configuration file or --dev",
            hint="ghostctl relay run --dev --state-dir state",
            exit_code=ExitCode.USAGE,
        )
    overrides: dict[tuple[str | int, ...], object] = {}
    for key_path, value, check in (
        (("listen", "h3"), listen, parse_listen_address),
        (("admin", "listen"), admin, parse_admin_address),
        (("log", "format"), log_format, str),
    ):
        if value is not None:
            _checked(f"--{key_path[0]}", check, value)
            overrides[key_path] = value
    for key_path, path in (
        (("quic", "qlog_dir"), qlog_dir),
        (("quic", "keylog_file"), keylog_file),
    ):
        if path is not None:
            # Beside the caller, where relative paths in the file are beside the file.
            overrides[key_path] = path.absolute()
    state: DevState | None = None
    with _config_errors():
        if dev:
            state = prepare_dev_state(state_dir or DEFAULT_STATE_DIR)
        source = ConfigSource(
            path=state.config_file if state else _given(config_file), overrides=overrides
        )
        config = source.load()
        configure_logging(config.log.level, config.log.format)
        files = RelayFiles(
            ready_file=ready_file,
            admin_url_file=state.admin_url_file if state else None,
            ca_file=state.ca_file if state else None,
            token_file=state.token_file if state else None,
        )
        server = Relay(source, config, files, on_serving=greeting(state) if state else None)
        asyncio.run(server.run())


def _given(config_file: Path | None) -> Path:
    if config_file is None:
        raise RuntimeError("checked above")
    return config_file


def _checked(option: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        fail(f"{option}: {error}", exit_code=ExitCode.USAGE)


def greeting(state: DevState) -> "Callable[[Serving], None]":
    """Return what tells a newcomer what to type next, once the relay serves."""

    def greet(serving: "Serving") -> None:
        relay_url = f"https://{serving.h3_address}"
        options = f"--relay {relay_url} --ca {state.ca_file} --token-file {state.token_file}"
        ghostctl = program()
        https = (
            "off" if serving.https_address is None else f"https://{serving.https_address}   (TCP)"
        )
        click.echo(
            f"""
Ghostwire relay, DEVELOPMENT MODE
  HTTP/3   {relay_url}   (UDP)
  HTTP/2   {https}
  admin    {serving.admin_url}
  state    {state.directory}

  WARNING: the development policy lets the dev token reach LOOPBACK addresses of this host.
           Never give this token away, never put this relay on a network. See {state.policy_file}

Next, in another terminal: forward local UDP port 5353 through the relay to a DNS server,
  {ghostctl} tunnel udp {options} 127.0.0.1:5353=1.1.1.1:53
and ask it:
  dig -p 5353 @127.0.0.1 example.org
Without a network, watch the same with both ends on this host:
  {ghostctl} demo

See what goes on:
  {ghostctl} relay status --state-dir {state.directory}
  {ghostctl} relay sessions --state-dir {state.directory}
Ctrl-C drains and ends; twice ends at once.
""",
        )

    return greet


@relay.command("check-config")
@click.argument("config_file", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def check_config(config_file: Path, as_json: bool) -> None:
    """Check a configuration and the files that it names.

    \b
    Examples:
      ghostctl relay check-config /etc/ghostwire/relay.toml
    """
    from masque_relay.server import check_files  # noqa: PLC0415 (loads the QUIC stack)

    problems: list[str] = []
    try:
        check_files(load_config(config_file))
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
    if as_json:
        print_json({"file": str(config_file), "problems": problems})
    else:
        for problem in problems:
            click.echo(problem, err=True)
        if not problems:
            click.echo(f"{config_file}: no problems")
    if problems:
        raise SystemExit(int(ExitCode.USAGE))


@relay.command("config-reference")
def config_reference() -> None:
    """Print every configuration key: docs/reference/config.md.

    \b
    Examples:
      ghostctl relay config-reference > docs/reference/config.md
    """
    from masque_relay.config.reference import config_reference as reference  # noqa: PLC0415

    click.echo(reference(), nl=False)


def admin_options(command: Command) -> Command:
    """Add the options that find the admin API of a running relay."""
    command = click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="State directory of a --dev relay, to find its admin API.  [default: state]",
    )(command)
    command = click.option(
        "--admin-token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="GHOSTCTL_ADMIN_TOKEN_FILE",
        help="File with the admin token.",
    )(command)
    return click.option(
        "--admin",
        metavar="URL",
        envvar="GHOSTCTL_ADMIN",
        help="http://ADDR:PORT or unix:PATH of the admin API.",
    )(command)


@relay.command()
@admin_options
@json_option
def status(
    admin: str | None, admin_token_file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Show versions, listeners, uptime and counts.

    \b
    Examples:
      ghostctl relay status --state-dir state
      ghostctl relay status --admin http://127.0.0.1:9443 --admin-token-file admin-token --json
    """
    with _admin(admin, admin_token_file, state_dir) as client:
        answer = client.status()
    if as_json:
        print_json(answer)
    else:
        print_table(None, ("", "value"), [(key, _cell(value)) for key, value in answer.items()])


@relay.command()
@admin_options
@json_option
def sessions(
    admin: str | None, admin_token_file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """List the live tunnels, oldest first.

    \b
    Examples:
      ghostctl relay sessions --state-dir state
    """
    with _admin(admin, admin_token_file, state_dir) as client:
        tunnels = client.tunnels()
    if as_json:
        print_json({"tunnels": tunnels})
        return
    columns = (
        ("id", "lease_id"),
        ("subject", "subject"),
        ("rule", "rule"),
        ("method", "method"),
        ("target", "target"),
        ("source", "source"),
        ("age s", "age_s"),
        ("up B", "uplink_bytes"),
        ("down B", "downlink_bytes"),
        ("dropped", "dropped_datagrams"),
    )
    print_table(
        f"{len(tunnels)} live tunnels",
        [title for title, _ in columns],
        [[_cell(tunnel.get(key)) for _, key in columns] for tunnel in tunnels],
    )


@relay.command()
@click.argument("lease_id", metavar="ID")
@admin_options
@json_option
def kick(
    lease_id: str,
    admin: str | None,
    admin_token_file: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """End one tunnel.

    Its client may open another one: `revoke` keeps it out.

    \b
    Examples:
      ghostctl relay kick 5f2c --state-dir state
    """
    with _admin(admin, admin_token_file, state_dir) as client:
        answer = client.kick(lease_id)
    _say(answer, f"kicked {lease_id}", as_json=as_json)


@relay.command()
@click.option("--subject", help="Refuse this subject from now on.")
@click.option("--token-id", help="Refuse the token with this id (jti) from now on.")
@admin_options
@json_option
def revoke(
    subject: str | None,
    token_id: str | None,
    admin: str | None,
    admin_token_file: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Refuse a subject or a token, and end its tunnels.

    \b
    Examples:
      ghostctl relay revoke --subject mallory --state-dir state
      ghostctl relay revoke --token-id 3yTq --state-dir state
    """
    if not subject and not token_id:
        fail(
            "nothing to revoke",
            hint="name --subject or --token-id; `ghostctl token inspect` shows both",
            exit_code=ExitCode.USAGE,
        )
    with _admin(admin, admin_token_file, state_dir) as client:
        answer = client.revoke(subject=subject, token_id=token_id)
    _say(answer, f"revoked; {answer['ended_tunnels']} tunnels ended", as_json=as_json)


@relay.command()
@admin_options
@json_option
def reload(
    admin: str | None, admin_token_file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Read config, policy, keys and certificates again.

    All of it changes or, if anything is wrong, nothing. No tunnel is dropped, but those that the
    new policy refuses end.

    \b
    Examples:
      ghostctl relay reload --state-dir state
    """
    with _admin(admin, admin_token_file, state_dir) as client:
        answer = client.reload()
    words = ", ".join(cast("list[str]", answer["changed"])) or "nothing"
    _say(answer, f"reloaded; changed: {words}", as_json=as_json)


@relay.command()
@click.option(
    "--deadline-s",
    type=click.FloatRange(min=0),
    help="End the remaining tunnels after this.  [default: drain.deadline_s]",
)
@admin_options
@json_option
def drain(
    deadline_s: float | None,
    admin: str | None,
    admin_token_file: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """End the relay gracefully.

    No new tunnels; the old ones may finish until the deadline; then the relay exits.

    \b
    Examples:
      ghostctl relay drain --deadline-s 60 --state-dir state
    """
    with _admin(admin, admin_token_file, state_dir) as client:
        answer = client.drain(deadline_s=deadline_s)
    _say(answer, "draining", as_json=as_json)


@contextmanager
def _admin(
    url: str | None, token_file: Path | None, state_dir: Path | None
) -> Generator[AdminClient]:
    """Give the client of the admin API; end the program with a next step if it fails."""
    with _config_errors():
        if url is None or token_file is None:
            state = DevState(directory=state_dir or DEFAULT_STATE_DIR)
            if not state.config_file.exists():
                fail(
                    "which relay?",
                    hint="name --state-dir of a --dev relay, or --admin and --admin-token-file",
                    exit_code=ExitCode.USAGE,
                )
            config = load_config(state.config_file)
            url = url or _running_url(state, config)
            token_file = token_file or config.admin.token_file
    try:
        token = token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{token_file}: the admin token can't be read: {error}", exit_code=ExitCode.USAGE)
    try:
        with AdminClient(url, token) as client:
            yield client
    except AdminUnreachableError as error:
        fail(
            f"no admin API at {url}: {error}",
            hint="is the relay running, and is --admin its admin address?",
            exit_code=ExitCode.UNREACHABLE,
        )
    except AdminRefusedError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        refused = error.status in {401, 403, 421}
        fail(
            error.message,
            hint=error.hint,
            exit_code=ExitCode.REFUSED if refused else ExitCode.FAILED,
        )


def _running_url(state: DevState, config: RelayConfig) -> str:
    """Return where the relay of a state directory says that it listens, or else should."""
    with suppress(OSError):
        return state.admin_url_file.read_text(encoding="utf-8").strip()
    return admin_url(config.admin.listen)


@contextmanager
def _config_errors() -> Generator[None]:
    """Turn a ConfigError into lines on stderr and the exit code for bad input."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        raise SystemExit(int(ExitCode.USAGE)) from None


def _say(answer: dict[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(text)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return "" if value is None else str(value)
