"""Owns `ghostctl token turn` and `turn-key`: what TURN clients sign with."""

import sys
import time
from pathlib import Path

import click

from masque_relay.cli.output import ExitCode, fail, json_option, print_json
from masque_relay.cli.token_values import Duration
from masque_relay.contract.errors import ConfigError
from masque_relay.control.auth.principal import is_presentable
from masque_relay.control.auth.turn import load_turn_secret, mint_time_limited, turn_keys


@click.command("turn")
@click.option(
    "--secret",
    "secret_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The shared secret (gate.stun.shared_secret_files).",
)
@click.option("--subject", required=True, help="Who it is for, as the policy knows them.")
@click.option("--expires", type=Duration(), default="1h", show_default=True, help="From now.")
@click.option("--uri", "uris", multiple=True, help="Where TURN is, for the JSON; repeatable.")
@json_option
def turn(
    secret_file: Path, subject: str, expires: float, uris: tuple[str, ...], as_json: bool
) -> None:
    """Print a time-limited user name and password for TURN.

    With --json in the form that WebRTC applications take as one of their iceServers.

    \b
    Examples:
      ghostctl token turn --secret state/turn-secret --subject alice --expires 12h
      ghostctl token turn --secret state/turn-secret --subject alice --json \\
          --uri turns:relay.example:5349
    """
    if not is_presentable(subject):
        detail = "empty, longer than 256 characters or with control characters"
        fail(f"--subject: {detail}", exit_code=ExitCode.USAGE)
    try:
        secret = load_turn_secret(secret_file)
    except ConfigError as error:
        problem = error.problems[0]
        fail(f"{secret_file}: {problem.detail}", hint=problem.hint, exit_code=ExitCode.USAGE)
    made = mint_time_limited(secret, subject=subject, expires_s=int(time.time() + expires))
    if as_json:
        ice_server: dict[str, object] = {"username": made.username, "credential": made.password}
        if uris:
            ice_server["urls"] = list(uris)
        print_json({**ice_server, "ttl": int(expires)})
    else:
        click.echo(f"username  {made.username}")
        click.echo(f"password  {made.password}")


@click.command("turn-key")
@click.option("--user", required=True, help="The user's name in the users file.")
@click.option("--realm", required=True, help="turn.realm of the relay.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read one line instead of asking twice.")
@json_option
def turn_key(user: str, realm: str, from_stdin: bool, as_json: bool) -> None:
    """Ask for a password and print a user's TURN keys for the users file.

    TURN clients do not send passwords but sign with a digest of them: the file then holds something
    that is as good as the password, for this realm. Time-limited credentials need no such thing.

    \b
    Examples:
      ghostctl token turn-key --user alice --realm ghostwire
      printf '%s\\n' "$PASSWORD" | ghostctl token turn-key --user alice --realm ghostwire --stdin
    """
    if not is_presentable(user) or ":" in user or ":" in realm or not realm:
        detail = "a name and a realm have no colon and no control characters"
        fail(detail, exit_code=ExitCode.USAGE)
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if not password:
        fail("the password is empty", exit_code=ExitCode.USAGE)
    md5, sha256 = turn_keys(user, realm, password)
    if as_json:
        print_json({"turn_md5": md5.hex(), "turn_sha256": sha256.hex()})
    else:
        click.echo(f'turn_md5 = "{md5.hex()}"')
        click.echo(f'turn_sha256 = "{sha256.hex()}"')
