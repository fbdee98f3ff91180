"""Owns masque-go's client as a foreign CONNECT-UDP peer: a local port that leads to a target."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager

from tests.support.go_programs import build_go_program
from tests.support.relay_process import RunningRelay


@contextmanager
def run_masque_go(
    relay: RunningRelay, target: tuple[str, int], *, token: str | None = None
) -> Generator[tuple[str, int]]:
    """Forward a local port through the relay while the block runs; yield its address.

    Args:
        relay: the proxy.
        target: host and port behind it.
        token: instead of the relay's own.

    Raises:
        ConnectionRefusedError: the relay opened no tunnel; what the program said.
    """
    program = build_go_program("masque-go", "./client")
    template = (
        f"https://localhost:{relay.port}/.well-known/masque/udp/{{target_host}}/{{target_port}}/"
    )
    with subprocess.Popen(
        [
            str(program),
            *("-template", template, "-target", f"{target[0]}:{target[1]}"),
            *("-ca", str(relay.ca_file)),
            *("-token", relay.token if token is None else token),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        try:
            port = process.stdout.readline().strip()  # at its own deadline it ends
            if not port:
                raise ConnectionRefusedError(process.stderr.read().strip())
            yield "127.0.0.1", int(port)
        finally:
            process.stdin.close()  # it ends
