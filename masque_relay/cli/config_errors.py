"""Owns how ghostctl reports a configuration that can't be used."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import click

from masque_relay.cli.output import ExitCode
from masque_relay.contract.errors import ConfigError, Problem


@contextmanager
def config_errors() -> Generator[None]:
    """Turn a ConfigError into lines on stderr and the exit code for bad input."""
    try:
        yield
    except ConfigError as error:
        fail_with_problems(error.problems)


def fail_with_problems(problems: Sequence[Problem]) -> NoReturn:
    """Say what is wrong, a line each, and where to look where a line does not say so itself."""
    for problem in problems:
        click.echo(str(problem), err=True)
    if any(problem.hint is None for problem in problems):
        click.echo("  next: every key and its default: docs/reference/config.md", err=True)
    raise SystemExit(int(ExitCode.USAGE)) from None
