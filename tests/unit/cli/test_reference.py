"""cli/reference.py: docs/reference/cli.md, and what every command's help has."""

import re
from pathlib import Path

import pytest

from masque_relay.cli.output import ExitCode
from masque_relay.cli.reference import cli_reference

ROOT = Path(__file__).parents[3]
SECTIONS = re.findall(
    r"^## (ghostctl[^\n]*)\n\n```text\n(.*?)\n```$", cli_reference(), re.MULTILINE | re.DOTALL
)


def test_the_committed_reference_is_current() -> None:
    committed = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert committed == cli_reference(), (
        "run: python -m masque_relay.cli.reference > docs/reference/cli.md"
    )


@pytest.mark.parametrize(("command", "text"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_every_command_shows_an_example_of_itself(command: str, text: str) -> None:
    examples = text.partition("Examples:")[2]
    assert command in examples, f"{command} --help has no example"


SILENT = {"ghostctl relay run", "ghostctl relay config-reference"}
"""They answer with nothing, or with a page."""


@pytest.mark.parametrize(
    ("command", "text"),
    [(name, text) for name, text in SECTIONS if "\nCommands:\n" not in text and name not in SILENT],
)
def test_every_command_that_answers_does_so_in_json_too(command: str, text: str) -> None:
    assert "\n  --json" in text, f"{command} has no --json"


def test_every_exit_code_is_explained() -> None:
    for code in ExitCode:
        assert f"| {code.value} | " in cli_reference()
