"""A session over plain requests through an nginx that holds responses back."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.mesh.netcheck import WayState, check_network
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.ways import ways_to
from tests.integration.client.commands import WAIT_S
from tests.integration.mesh.proxies import free_port
from tests.support.managed_relay import ManagedRelay, managed_relay


@contextmanager
def nginx_that_buffers(relay: ManagedRelay, directory: Path) -> Generator[int]:
    """Run nginx as a front that collects responses, and does not let the relay forbid it."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("needs nginx: .ci/run installs it")
    port = free_port()
    state = relay.state.directory
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"error_log {directory}/error.log;\npid {directory}/nginx.pid;\n"
        "daemon off;\nmaster_process off;\nevents { worker_connections 64; }\n"
        f"http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};\n"
        f"  fastcgi_temp_path {directory}; uwsgi_temp_path {directory};\n"
        f"  scgi_temp_path {directory};\n"
        f"  server {{ listen 127.0.0.1:{port} ssl;\n"
        f"    ssl_certificate {state}/cert.pem; ssl_certificate_key {state}/key.pem;\n"
        f"    location / {{ proxy_pass https://{relay.host}:{relay.port};\n"
        "      proxy_http_version 1.1; proxy_set_header Host $http_host;\n"
        "      proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; }\n  }\n}\n"
    )
    process = subprocess.Popen([program, "-p", str(directory), "-c", str(configuration)])
    try:
        deadline = time.monotonic() + 15
        while not (directory / "nginx.pid").exists():
            assert process.poll() is None, (directory / "error.log").read_text()
            assert time.monotonic() < deadline, "nginx wrote no pid file"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=15)


async def test_session_over_requests_polls_where_responses_are_held_back(tmp_path: Path) -> None:
    with managed_relay(tmp_path) as relay, nginx_that_buffers(relay, tmp_path) as port:
        address = RelayAddress.parse(f"https://127.0.0.1:{port}")
        options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
        async with asyncio.timeout(WAIT_S):
            report = await check_network(
                ways_to(address, options, kinds=[WayKind.HTTPS]),
                token=relay.token,
                relay_name=address.host,
            )

        assert report.ways[0].state is WayState.WORKS, report.ways[0].why
        assert report.ways[0].welcome_ms is not None
        assert report.ways[0].welcome_ms >= 3_000, "the stream was held back, then it polled"
