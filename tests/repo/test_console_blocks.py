"""Owns the tests of the reader and runner of console blocks, so that it can't pass by mistake."""

import sys
from pathlib import Path

import pytest

from tests.support.console_blocks import Console, console_blocks

PAGE = """
<!-- test: background until ready -->
```console
$ sh -c 'echo ready; sleep 60'
ready
```

```console
$ echo one \\
  two
one two
$ echo three
```

<!-- test: exits 3 -->
```console
$ exit 3
```
"""


def test_blocks_are_read_with_their_marks() -> None:
    background, plain, failing = console_blocks(PAGE)
    assert background.background_until == "ready"
    assert plain.commands == ("echo one \\\n  two", "echo three")
    assert failing.exit_code == 3


def test_an_unknown_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown mark"):
        console_blocks("<!-- test: maybe -->\n```console\n$ true\n```\n")


def test_a_command_that_fails_fails_the_page(tmp_path: Path) -> None:
    (block,) = console_blocks("```console\n$ false\n```\n")
    with (
        Console(tmp_path, Path(sys.executable).parent, timeout_s=30) as console,
        pytest.raises(AssertionError, match="exit 1"),
    ):
        console.run(block)


def test_the_wrong_exit_code_fails_the_page(tmp_path: Path) -> None:
    (block,) = console_blocks("<!-- test: exits 3 -->\n```console\n$ exit 4\n```\n")
    with (
        Console(tmp_path, Path(sys.executable).parent, timeout_s=30) as console,
        pytest.raises(AssertionError, match="exit 4"),
    ):
        console.run(block)


def test_a_background_command_that_ends_before_it_is_ready_fails_the_page(tmp_path: Path) -> None:
    (block,) = console_blocks("<!-- test: background until up -->\n```console\n$ true\n```\n")
    with (
        Console(tmp_path, Path(sys.executable).parent, timeout_s=30) as console,
        pytest.raises(AssertionError, match="true"),
    ):
        console.run(block)


def test_commands_run_in_a_directory_of_their_own(tmp_path: Path) -> None:
    _, plain, _ = console_blocks(PAGE)
    with Console(tmp_path, Path(sys.executable).parent, timeout_s=30) as console:
        assert console.run(plain) == "one two\nthree\n"
        (block,) = console_blocks("```console\n$ pwd\n```\n")
        assert console.run(block).strip() == str(tmp_path)


def test_a_here_document_belongs_to_its_command(tmp_path: Path) -> None:
    (block,) = console_blocks("```console\n$ cat <<'END'\na\n$ b\nEND\n$ echo c\nc\n```\n")
    with Console(tmp_path, Path(sys.executable).parent, timeout_s=30) as console:
        assert console.run(block) == "a\n$ b\nc\n"
