"""Owns docs/reference/cli.md: the help of every command, as ghostctl prints it."""

import sys
from collections.abc import Iterator

import click

from masque_relay.cli.main import main
from masque_relay.cli.output import ExitCode

WIDTH_COLUMNS = 88

_HEAD = """\
# ghostctl

Generated from the code by `python -m masque_relay.cli.reference`; do not edit by hand.

Every command that answers with data has `--json`: one document, stable for scripts. Errors go to
standard error, with the next step.

| exit code | means |
|---|---|
"""

_EXIT_CODES = {
    ExitCode.OK: "It was done.",
    ExitCode.FAILED: "It was tried and did not work.",
    ExitCode.USAGE: "Bad arguments, configuration or policy: nothing was tried.",
    ExitCode.REFUSED: "The relay said no: credential or policy.",
    ExitCode.UNREACHABLE: "Nothing answered there, or its certificate was not accepted.",
    ExitCode.TIMEOUT: "It took too long.",
}


def cli_reference() -> str:
    """Return the reference as Markdown; a test keeps the committed file equal to it."""
    rows = "".join(f"| {code.value} | {text} |\n" for code, text in _EXIT_CODES.items())
    context = click.Context(
        main,
        info_name="ghostctl",
        help_option_names=["-h", "--help"],
        terminal_width=WIDTH_COLUMNS,
        max_content_width=WIDTH_COLUMNS,
    )
    return _HEAD + rows + "".join(_pages(main, context))


def _pages(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is None or inner.hidden:
            continue
        child = click.Context(
            inner,
            info_name=name,
            parent=context,
            help_option_names=["-h", "--help"],
            terminal_width=WIDTH_COLUMNS,
            max_content_width=WIDTH_COLUMNS,
        )
        yield from _pages(inner, child)


if __name__ == "__main__":
    sys.stdout.write(cli_reference())
