"""Owns what ghostctl prints: tables, JSON, errors with the next step, exit codes."""

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NoReturn, TypeVar

import click
import orjson
from rich.console import Console
from rich.table import Table

PIPE_COLUMNS = 1_000
"""Wider than any table of ours; a table is only as wide as its cells."""

Command = TypeVar("Command", bound=Callable[..., object])


class ExitCode(IntEnum):
    """What scripts may rely on; docs/reference/cli.md lists them."""

    OK = 0
    FAILED = 1
    """It was tried and did not work."""
    USAGE = 2
    """Bad arguments, configuration or policy: nothing was tried."""
    REFUSED = 3
    """The relay's gate said no."""
    UNREACHABLE = 4
    """Nothing answered there, or its certificate was not accepted."""
    TIMEOUT = 5


def print_json(value: object) -> None:
    """Print one JSON document on one line: stable for scripts, also when streamed.

    Raises:
        TypeError: the value holds something that JSON has no form for.
    """
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_SORT_KEYS) + b"\n")
    sys.stdout.buffer.flush()


def print_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Print a table for people; cells are shown as text, markup in them is not interpreted."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell).replace("[", r"\[") for cell in row))
    # In a pipe nobody sees columns fold: each row stays on its line, for grep.
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def program() -> str:
    """Return what to type for this ghostctl: its name, or its path if PATH does not find it."""
    beside_python = Path(sys.executable).with_name("ghostctl")
    on_path = shutil.which("ghostctl")
    if not beside_python.exists() or (on_path and beside_python.samefile(on_path)):
        return "ghostctl"
    return shlex.quote(str(beside_python))


def fail(
    message: str, *, hint: str | None = None, exit_code: ExitCode = ExitCode.FAILED
) -> NoReturn:
    """Say on stderr what went wrong and what to do next, and leave with the exit code."""
    click.echo(f"ghostctl: {message}", err=True)
    if hint is not None:
        click.echo(f"  next: {hint}", err=True)
    raise SystemExit(int(exit_code))


def json_option(command: Command) -> Command:
    """Add ``--json`` to a click command, handed to it as ``as_json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON instead of text, for scripts."
    )(command)
