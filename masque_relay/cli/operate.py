"""Owns the commands of `ghostctl relay` that manage a running relay through its admin API."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

import click
import orjson

from masque_relay.admin.address import admin_url
from masque_relay.admin.client import AdminClient, AdminRefusedError, AdminUnreachableError
from masque_relay.cli.config_errors import config_errors
from masque_relay.cli.output import ExitCode, fail, json_option, print_json, print_table
from masque_relay.config import RelayConfig, load_config
from masque_relay.config.dev_state import DevState

Command = TypeVar("Command", bound=Callable[..., object])

DEFAULT_STATE_DIR = Path("state")
RESTART_POLL_S = 0.2


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


@click.command()
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
        workers = cast("list[dict[str, object]]", answer.pop("workers", []))
        print_table(None, ("", "value"), [(key, _cell(value)) for key, value in answer.items()])
        if workers:
            columns = list(workers[0])
            rows = [[_cell(worker.get(column)) for column in columns] for worker in workers]
            print_table(f"{len(workers)} workers", columns, rows)


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0),
    default=90.0,
    show_default=True,
    help="How long to wait for the new workers; 0 does not wait.",
)
@admin_options
@json_option
def restart(
    timeout_s: float,
    admin: str | None,
    admin_token_file: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Replace all workers by new ones, of the code that is installed now.

    Nothing is lost: the old workers keep their tunnels until drain.restart_deadline_s, the new ones
    take what is new. If the new code or the configuration can't be used, nothing happens. It needs
    a relay of at least two workers.

    \b
    Examples:
      ghostctl relay restart --state-dir state
    """
    with _admin(admin, admin_token_file, state_dir) as client:
        before = client.status()
        answer: dict[str, object] = client.restart()
        if timeout_s:
            answer = _until_restarted(client, before, timeout_s)
    _say(
        answer,
        "restarting"
        if not timeout_s
        else f"restarted: generation {answer['generation']} serves, "
        f"{answer['old_tunnels']} tunnels go on in the old workers",
        as_json=as_json,
    )


def _until_restarted(
    client: AdminClient, before: dict[str, object], timeout_s: float
) -> dict[str, object]:
    """Return generation and old tunnels once the new workers serve; end the program if not."""
    deadline_s = time.monotonic() + timeout_s
    old = before["generation"]
    failed_before = cast("dict[str, int]", before["restarts"]).get("failed", 0)
    while True:
        time.sleep(RESTART_POLL_S)
        with suppress(AdminUnreachableError, AdminRefusedError):  # between old code and new
            status = client.status()
            if status["generation"] != old:
                return {"generation": status["generation"], "old_tunnels": _tunnels(status, old)}
            if cast("dict[str, int]", status["restarts"]).get("failed", 0) > failed_before:
                fail("the new workers did not start; the old ones go on", hint="the log says why")
        if time.monotonic() > deadline_s:
            fail(
                f"the new workers do not serve after {timeout_s:.0f} s",
                hint="relay status and the log show what they do",
            )


def _tunnels(status: dict[str, object], generation: object) -> int:
    workers = cast("list[dict[str, int]]", status["workers"])
    return sum(w["tunnels"] or 0 for w in workers if w["generation"] == generation)


@contextmanager
def _admin(
    url: str | None, token_file: Path | None, state_dir: Path | None
) -> Generator[AdminClient]:
    """Give the client of the admin API; end the program with a next step if it fails."""
    with config_errors():
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


MANAGEMENT_COMMANDS: tuple[click.Command, ...] = (
    status,
    sessions,
    kick,
    revoke,
    reload,
    restart,
    drain,
)
"""In the order in which `ghostctl relay --help` lists them."""
