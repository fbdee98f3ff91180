"""Owns libcurl as a foreign CONNECT-UDP client over HTTP/3 that knows capsules only."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What one run of tests.support.curl_fetch saw."""

    body: str
    body_bytes: int
    error: int | None
    """A CURLcode, or None."""
    status: int
    """Of the page."""
    connect_status: int
    trace: str
    """libcurl's own account, response heads included."""


def needs_curl() -> None:
    """Skip the test where the libcurl that can do CONNECT-UDP over HTTP/3 is missing."""
    try:
        version = importlib.metadata.version("curl_cffi")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if tuple(int(part) for part in version.split(".")[:2]) < (0, 17):
        pytest.skip("needs the interop extra (curl_cffi 0.17): .ci/run installs it")


def start_fetch(url: str, *, ca_file: Path, arguments: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a fetch; give it to :func:`finish_fetch`."""
    command = [sys.executable, "-m", "tests.support.curl_fetch", url, "--ca-file", str(ca_file)]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_fetch(process: subprocess.Popen[str]) -> Fetched:
    """Wait for a fetch and return what it saw."""
    output, errors = process.communicate(timeout=50)
    assert process.returncode == 0, f"the fetch died with {process.returncode}: {errors}"
    return Fetched(**json.loads(output))


def fetch(url: str, *, ca_file: Path, arguments: Sequence[str] = ()) -> Fetched:
    """Fetch and wait."""
    return finish_fetch(start_fetch(url, ca_file=ca_file, arguments=arguments))


def through(proxy: tuple[str, int], ca_file: Path, *headers: str) -> list[str]:
    """Return the arguments that lead a fetch through a CONNECT-UDP proxy."""
    arguments = ["--proxy", f"https://{proxy[0]}:{proxy[1]}", "--proxy-ca-file", str(ca_file)]
    return [*arguments, *(f"--proxy-header={header}" for header in headers)]
