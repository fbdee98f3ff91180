"""Owns Caddy as the HTTP/3 site behind the relay: a real target that is not ours."""

import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.processes import DidNotStartError, executable, run_process
from tests.support.site_certificate import SiteCertificate

GREETING = "hello over HTTP/3.0"
_CADDYFILE = """
{{
  admin off
  auto_https off
  grace_period 200ms
  storage file_system {storage}
  servers {{
    protocols h1 h2 h3
  }}
}}
https://127.0.0.1:{port}, https://localhost:{port} {{
  tls {certificate} {key}
  root * {root}
  respond / "hello over {{http.request.proto}}"
  file_server
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSite:
    """A running HTTP/3 site."""

    port: int
    root: Path
    """Files put here are served."""
    certificate: SiteCertificate


def _free_port() -> int:
    """Return a port that was free for TCP and UDP a moment ago; Caddy cannot take port 0."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            with suppress(OSError):  # somebody has that one for UDP
                udp.bind(("127.0.0.1", port))
                return port


@contextmanager
def run_caddy(directory: Path, certificate: SiteCertificate) -> Generator[HttpSite]:
    """Run Caddy while the block runs."""
    program = executable("caddy")
    root = directory / "root"
    root.mkdir(parents=True)
    with ExitStack() as stack:
        port = 0
        for attempts_left in (2, 1, 0):
            port = _free_port()
            configuration = _write_configuration(directory, certificate, port)
            command = [program, "run", "--config", str(configuration), "--adapter", "caddyfile"]
            process = run_process(
                command,
                log=directory / "caddy.log",
                ready=partial(_accepts, port),
                environment={"HOME": str(directory)},
            )
            try:
                stack.enter_context(process)
            except DidNotStartError:  # somebody may have taken the port before Caddy did
                if not attempts_left:
                    raise
            else:
                break
        yield HttpSite(port=port, root=root, certificate=certificate)


def _write_configuration(directory: Path, certificate: SiteCertificate, port: int) -> Path:
    path = directory / "Caddyfile"
    text = _CADDYFILE.format(
        port=port,
        storage=directory / "storage",
        certificate=certificate.certificate_file,
        key=certificate.key_file,
        root=directory / "root",
    )
    path.write_text(text, encoding="utf-8")
    return path


def _accepts(port: int) -> bool | None:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0 or None


def can_do_http3(url: str, ca_file: Path) -> bool:
    """Whether the site answers libcurl directly over HTTP/3: a check of the test's own ground."""
    command = [sys.executable, "-m", "tests.support.curl_fetch", url, "--ca-file", str(ca_file)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return GREETING in answer.stdout
