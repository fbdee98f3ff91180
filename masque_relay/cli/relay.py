"""Owns `ghostctl relay`: run a relay, check its configuration; operate.py manages a running one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from masque_relay.cli.config_errors import config_errors, fail_with_problems
from masque_relay.cli.operate import DEFAULT_STATE_DIR, MANAGEMENT_COMMANDS
from masque_relay.cli.output import (
    ExitCode,
    fail,
    json_option,
    print_json,
    program,
)
from masque_relay.config import (
    LogFormat,
    load_config,
    parse_admin_address,
    parse_listen_address,
)
from masque_relay.config.dev_state import DevState, prepare_dev_state
from masque_relay.contract.errors import ConfigError, Problem

if TYPE_CHECKING:
    from masque_relay.server import Serving


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
    "--workers",
    type=click.IntRange(min=1),
    help="Overrides workers: processes behind the port.  [default: one per core; 1 with --dev]",
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
    workers: int | None,
    log_format: str | None,
    qlog_dir: Path | None,
    keylog_file: Path | None,
) -> None:
    """Run a relay in the foreground until SIGTERM.

    SIGTERM or Ctrl-C drains: tunnels may finish until drain.deadline_s. A second one ends at once.
    SIGHUP reloads policy, keys, certificates and limits without dropping tunnels.
    SIGUSR2 replaces all workers by new ones, of new code; the old ones keep their tunnels.

    \b
    Examples:
      ghostctl relay run --dev --state-dir state
      ghostctl relay run --dev --listen 127.0.0.1:0 --admin 127.0.0.1:0 --ready-file ready.json
      ghostctl relay run --dev --qlog-dir qlog --keylog-file keys.log
      ghostctl relay run /etc/ghostwire/relay.toml
    """
    # Here, so that `ghostctl relay status` does not wait for the QUIC stack to load.
    from masque_relay.server import (  # noqa: PLC0415
        ConfigSource,
        RelayFiles,
        configure_logging,
        run_relay,
    )

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
    if workers is not None:
        overrides["workers",] = workers
    state: DevState | None = None
    with config_errors():
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
        run_relay(
            source,
            config,
            files,
            default_worker_count=1 if dev else None,
            on_serving=greeting(state) if state else None,
        )


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

    problems: tuple[Problem, ...] = ()
    try:
        check_files(load_config(config_file))
    except ConfigError as error:
        problems = error.problems
    if as_json:
        print_json({"file": str(config_file), "problems": [str(problem) for problem in problems]})
        raise SystemExit(int(ExitCode.USAGE if problems else ExitCode.OK))
    if problems:
        fail_with_problems(problems)
    click.echo(f"{config_file}: no problems")


@relay.command("config-reference")
def config_reference() -> None:
    """Print every configuration key: docs/reference/config.md.

    \b
    Examples:
      ghostctl relay config-reference > docs/reference/config.md
    """
    from masque_relay.config.reference import config_reference as reference  # noqa: PLC0415

    click.echo(reference(), nl=False)


for _command in MANAGEMENT_COMMANDS:
    relay.add_command(_command)
