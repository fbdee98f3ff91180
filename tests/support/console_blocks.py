"""Owns the reading of runnable console blocks in Markdown, and the running of them.

A block is fenced as ``console``; its commands begin with ``$ `` and may go on over lines that end
in a backslash, or to the end of a here-document (``<<'END'``); other lines are output for the
reader. An HTML comment right above the block says
how a test treats it:

- ``<!-- test: background until REGEX -->``: started, and left running once its output matches;
- ``<!-- test: elsewhere REASON -->``: not run here; the reason names the test that runs it;
- ``<!-- test: exits N -->``: the last command must leave with that code.
"""

import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

FENCE = re.compile(
    r"(?:<!-- test: (?P<mark>[^\n]*?) -->\n+)?^```console\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

HERE_DOCUMENT = re.compile(r"<<'(\w+)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleBlock:
    """One fenced block: its commands, and how it is to be run."""

    line: int
    commands: tuple[str, ...]
    background_until: str | None
    elsewhere: str | None
    exit_code: int


def console_blocks(text: str) -> list[ConsoleBlock]:
    """Return the blocks of a page in order.

    Raises:
        ValueError: a mark above a block is none of those that the module docstring names.
    """
    return [_block(match, text) for match in FENCE.finditer(text)]


def _block(match: re.Match[str], text: str) -> ConsoleBlock:
    mark = match["mark"] or ""
    kind, _, rest = mark.partition(" ")
    if kind == "background":
        rest = rest.removeprefix("until ")
    elif kind not in {"", "elsewhere", "exits"}:
        raise ValueError(f"unknown mark above a console block: {mark!r}")
    return ConsoleBlock(
        line=text.count("\n", 0, match.start("body")),
        commands=_commands(match["body"]),
        background_until=rest if kind == "background" else None,
        elsewhere=rest if kind == "elsewhere" else None,
        exit_code=int(rest) if kind == "exits" else 0,
    )


def _commands(body: str) -> tuple[str, ...]:
    commands: list[str] = []
    continued = False
    here_document_end: str | None = None
    for line in body.splitlines():
        if continued or here_document_end is not None:
            commands[-1] += "\n" + line
        elif line.startswith("$ "):
            commands.append(line[2:])
        else:
            continue
        if here_document_end is not None:
            here_document_end = None if line == here_document_end else here_document_end
            continue
        continued = line.endswith("\\")
        if match := HERE_DOCUMENT.search(line):
            here_document_end = match[1]
    return tuple(commands)


class Console:
    """A directory of its own in which the commands of one page run, one after the other."""

    def __init__(self, directory: Path, bin_directory: Path, *, timeout_s: float) -> None:
        self._directory = directory
        self._timeout_s = timeout_s
        self._environment = {
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "HOME": str(directory),
            "COLUMNS": "200",
        }
        self._background: list[tuple[subprocess.Popen[bytes], str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what runs in the background, newest first; each must end well on SIGTERM."""
        codes: dict[str, int] = {}
        for process, command in reversed(self._background):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                codes[command] = process.wait(timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                codes[command] = process.wait()
        if exc is None:
            assert not any(codes.values()), f"background commands ended badly: {codes}"

    def run(self, block: ConsoleBlock) -> str:
        """Run one block; return its output. Fails the test if a command does not do as marked."""
        if block.background_until is not None:
            (command,) = block.commands
            return self._start(command, block.background_until)
        output = ""
        for number, command in enumerate(block.commands, 1):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self._directory,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=self._timeout_s,
                check=False,
            )
            text = done.stdout.decode(errors="replace")
            expected = block.exit_code if number == len(block.commands) else 0
            assert done.returncode == expected, f"$ {command}\n{text}\n(exit {done.returncode})"
            output += text
        return output

    def _start(self, command: str, until: str) -> str:
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._directory,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._background.append((process, command))
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline and process.poll() is None:
            output = Path(log.name).read_text(errors="replace")
            if re.search(until, output):
                return output
            time.sleep(0.05)
        raise AssertionError(f"$ {command}\n{Path(log.name).read_text(errors='replace')}")
