"""Owns how the client commands talk while they run: lines for people, JSON for scripts."""

from pathlib import Path

import click

from masque_relay.cli.client_errors import exit_code_of
from masque_relay.cli.output import print_json
from masque_relay.client import ClientError


class ClientReport:
    """What the reports of all commands share.

    Lines for people go to stdout, problems to stderr. With ``as_json`` everything is one JSON
    object per line on stdout, told apart by ``event``.
    """

    def __init__(self, relay: str, *, as_json: bool) -> None:
        self._relay = relay
        self._as_json = as_json
        self._is_running = False

    def failed(self, error: ClientError) -> None:
        """Tell scripts why the command ends; people read it on stderr from its caller."""
        if self._as_json:
            print_json(
                {
                    "event": "failed",
                    "message": error.message,
                    "hint": error.hint,
                    "exit_code": int(exit_code_of(error)),
                }
            )

    def _say(self, line: str, **values: object) -> None:
        if self._as_json:
            print_json(values)
        else:
            click.echo(line)

    def _warn(self, line: str, hint: str | None, **values: object) -> None:
        if self._as_json:
            print_json({**values, "message": line, "hint": hint})
            return
        click.echo(f"ghostctl: {line}", err=True)
        if hint is not None:
            click.echo(f"  next: {hint}", err=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.replace(path)
