"""Owns `ghostctl key`: make signing keys and password hashes."""

import sys
from pathlib import Path

import click

from masque_relay.cli.output import ExitCode, fail, json_option, print_json
from masque_relay.control.auth.basic import MAX_PASSWORD_BYTES, hash_password
from masque_relay.control.auth.keys import ASYMMETRIC, generate_signing_key, write_signing_key


@click.group()
def key() -> None:
    """Make signing keys and password hashes.

    \b
    Examples:
      ghostctl key generate --out keys
      ghostctl key hash-password
    """


@key.command()
@click.option(
    "--algorithm",
    type=click.Choice([algorithm.value for algorithm in ASYMMETRIC]),
    default="EdDSA",
    show_default=True,
    help="What the key signs with.",
)
@click.option(
    "--out",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The directory for both files; made if it is not there.",
)
@click.option("--name", default="signing", show_default=True, help="How the files are named.")
@json_option
def generate(algorithm: str, directory: Path, name: str, as_json: bool) -> None:
    """Make a key pair for tokens: NAME.key.pem is secret, NAME.pub.pem is for the relay.

    Nothing is ever overwritten.

    \b
    Examples:
      ghostctl key generate --out keys
      ghostctl key generate --algorithm ES256 --out keys --name issuer-2026
    """
    if Path(name).name != name:
        fail(f"--name: {name!r} is not a file name", exit_code=ExitCode.USAGE)
    made = generate_signing_key(algorithm)
    try:
        private_path, public_path = write_signing_key(made, directory, name)
    except FileExistsError as error:
        fail(
            f"{error.filename or error} is there already; keys are never overwritten",
            hint="choose another --name or --out",
        )
    except OSError as error:
        fail(
            f"{error.filename or directory} can't be written: {error.strerror}",
            hint="choose a directory of yours with --out",
        )
    if as_json:
        print_json(
            {
                "algorithm": made.algorithm.value,
                "kid": made.kid,
                "private_key_file": str(private_path),
                "public_key_file": str(public_path),
            }
        )
        return
    click.echo(f"private key  {private_path}  (secret: it makes tokens)")
    click.echo(f"public key   {public_path}  (for the relay: gate.bearer.issuers.key_files)")
    click.echo(f"kid          {made.kid}")
    click.echo(
        f"next: ghostctl token issue --key {private_path} --subject alice "
        "--audience relay.example --issuer https://issuer.example --expires 1h"
    )


@key.command("hash-password")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read one line instead of asking twice.")
@json_option
def hash_password_command(from_stdin: bool, as_json: bool) -> None:
    """Ask for a password and print its argon2id hash for the users file.

    \b
    Examples:
      ghostctl key hash-password
      printf '%s\\n' "$PASSWORD" | ghostctl key hash-password --stdin
    """
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    size_bytes = len(password.encode("utf-8", "surrogateescape"))
    if not 0 < size_bytes <= MAX_PASSWORD_BYTES:
        detail = f"a password has 1 to {MAX_PASSWORD_BYTES} bytes, not {size_bytes}"
        fail(detail, exit_code=ExitCode.USAGE)
    hashed = hash_password(password)
    if as_json:
        print_json({"password_hash": hashed})
    else:
        click.echo(hashed)
