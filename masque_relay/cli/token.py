"""Owns `ghostctl token`: issue tokens, and look into them."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from masque_relay.cli.output import ExitCode, fail, json_option, print_json, print_table
from masque_relay.cli.token_turn import turn, turn_key
from masque_relay.cli.token_values import Duration
from masque_relay.contract.errors import ConfigError
from masque_relay.control.auth.keys import load_signing_key
from masque_relay.control.auth.principal import is_presentable
from masque_relay.control.auth.tokens import (
    TokenContents,
    issue_token,
    load_inspection_keys,
    read_token,
    signature_verifies,
)
from masque_relay.wire.errors import WireError
from masque_relay.wire.peer_id import parse_peer_id

MAX_INPUT_CHARACTERS = 65_536  # eight times what a relay accepts

_TIME_CLAIMS = ("iat", "nbf", "exp")


@click.group()
def token() -> None:
    """Issue and inspect tokens.

    \b
    Examples:
      ghostctl token issue --key keys/signing.key.pem --subject alice \\
          --audience relay.example --issuer https://issuer.example --expires 1h
      ghostctl token inspect - < token
    """


@token.command()
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The private key file (ghostctl key generate).",
)
@click.option("--subject", required=True, help="Who the token is for.")
@click.option(
    "--audience", "audiences", multiple=True, required=True, help="The relay it is for; repeatable."
)
@click.option("--issuer", required=True, help="Who issues it, as the relay's configuration says.")
@click.option("--expires", type=Duration(), default="1h", show_default=True, help="From now.")
@click.option("--group", "groups", multiple=True, help="A group of the subject; repeatable.")
@click.option("--peer", "peer_text", help="The mesh peer that may use it (ghostctl peer id).")
@click.option("--token-id", help="The jti; a random one if not given.")
@json_option
def issue(
    key_file: Path,
    subject: str,
    audiences: tuple[str, ...],
    issuer: str,
    expires: float,
    groups: tuple[str, ...],
    peer_text: str | None,
    token_id: str | None,
    as_json: bool,
) -> None:
    """Print a signed token.

    \b
    Examples:
      ghostctl token issue --key keys/signing.key.pem --subject alice \\
          --audience relay.example --issuer https://issuer.example --expires 1h
      ghostctl token issue --key keys/signing.key.pem --subject bob --group staff \\
          --audience relay.example --issuer https://issuer.example > token
    """
    for option, text in (("--subject", subject), *(("--group", group) for group in groups)):
        if not is_presentable(text):
            detail = "empty, longer than 256 characters or with control characters"
            fail(f"{option}: {detail}", exit_code=ExitCode.USAGE)
    peer_id: bytes | None = None
    if peer_text is not None:
        try:
            peer_id = parse_peer_id(peer_text)
        except WireError as error:
            hint = "print yours with: ghostctl peer id"
            fail(f"--peer: {error.detail}", hint=hint, exit_code=ExitCode.USAGE)
    try:
        key = load_signing_key(key_file)
    except ConfigError as error:
        problem = error.problems[0]
        hint = problem.hint or "make one with: ghostctl key generate --out DIR"
        fail(f"{key_file}: {problem.detail}", hint=hint, exit_code=ExitCode.USAGE)
    made = issue_token(
        key,
        subject=subject,
        audience=audiences[0] if len(audiences) == 1 else audiences,
        issuer=issuer,
        lifetime_s=expires,
        now_s=time.time(),
        groups=groups,
        token_id=token_id,
        peer_id=peer_id,
    )
    if as_json:
        claims = read_token(made).claims
        print_json({"token": made, "token_id": claims["jti"], "expires_s": claims["exp"]})
    else:
        click.echo(made)


@token.command()
@click.argument("text", metavar="TOKEN|-")
@click.option(
    "--keys",
    "key_file",
    type=click.Path(path_type=Path),
    help="A public key (PEM) or JWK set (JSON): check the signature too.",
)
@json_option
def inspect(text: str, key_file: Path | None, as_json: bool) -> None:
    """Show what is in TOKEN (or in standard input, for -), and whether it is signed by a key.

    A token on the command line can be seen by other users of this host: prefer -.

    Exit code 0: readable, and the signature is good or was not checked. 1: not a token, or the
    signature is bad.

    \b
    Examples:
      ghostctl token inspect - < token
      ghostctl token inspect --keys keys/signing.pub.pem --json - < token
    """
    value = sys.stdin.read(MAX_INPUT_CHARACTERS) if text == "-" else text
    value = value.strip()
    try:
        contents = read_token(value)
    except ValueError as error:
        fail(f"not a token: {error}", hint="make one with: ghostctl token issue --help")
    verified: bool | None = None
    if key_file is not None:
        try:
            verified = signature_verifies(value, load_inspection_keys(key_file))
        except ConfigError as error:
            problem = error.problems[0]
            fail(f"{key_file}: {problem.detail}", hint=problem.hint, exit_code=ExitCode.USAGE)
    if as_json:
        signature = {None: "unchecked", True: "good", False: "bad"}[verified]
        print_json({"header": contents.header, "claims": contents.claims, "signature": signature})
    else:
        _print(contents, verified)
    if verified is False:
        raise SystemExit(int(ExitCode.FAILED))


def _print(contents: TokenContents, verified: bool | None) -> None:
    now_s = time.time()
    rows: list[tuple[object, object]] = [
        (f"header {name}", _plain(value)) for name, value in contents.header.items()
    ]
    for name, value in contents.claims.items():
        shown = _time(value, now_s) if name in _TIME_CLAIMS else _plain(value)
        rows.append((name, shown))
    print_table(None, ("field", "value"), rows)
    notes = {
        None: "signature: not checked (give --keys FILE)",
        True: "signature: good",
        False: "signature: BAD, no relay with these keys accepts it",
    }
    click.echo(f"\n{notes[verified]}")


def _plain(value: object) -> str:
    """Return a value without control characters: a token is foreign text on our terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def _time(value: object, now_s: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        return _plain(value)
    moment = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    away_s = value - now_s
    size = f"{abs(away_s) / 3600:.1f} h" if abs(away_s) >= 3600 else f"{abs(away_s):.0f} s"
    return f"{moment} (in {size})" if away_s >= 0 else f"{moment} ({size} ago)"


token.add_command(turn)
token.add_command(turn_key)
