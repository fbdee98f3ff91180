"""Owns the proof that nginx/quic-passthrough.conf carries tunnels, with a real nginx in front."""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayClient, RelayOptions
from tests.support.relay_process import RunningRelay, run_relay
from tests.support.udp_echo import run_udp_echo

TEMPLATE = Path(__file__).parents[3] / "nginx" / "quic-passthrough.conf"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def nginx_in_front(relay: RunningRelay, directory: Path) -> Generator[int]:
    """Run nginx with the template; yield the UDP port where clients come in."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or not STREAM_MODULE.exists():
        pytest.skip("needs nginx with its stream module: .ci/run installs it")
    port = free_udp_port()
    stream = Template(TEMPLATE.read_text()).substitute(
        LISTEN_ADDRESS=f"127.0.0.1:{port}", RELAY_ADDRESS=f"{relay.host}:{relay.port}"
    )
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"load_module {STREAM_MODULE};\nerror_log {directory}/error.log;\n"
        f"pid {directory}/nginx.pid;\ndaemon off;\nmaster_process off;\n"
        f"events {{ worker_connections 256; }}\n{stream}"
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


async def test_a_tunnel_goes_through_nginx_and_keeps_its_datagram_size(tmp_path: Path) -> None:
    with (
        run_relay(tmp_path) as relay,
        run_udp_echo() as echo,
        nginx_in_front(relay, tmp_path) as port,
    ):
        options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(token=relay.token))
        address = RelayAddress.parse(f"https://127.0.0.1:{port}")
        async with (
            RelayClient(address, options) as client,
            client.open_udp("127.0.0.1", echo.port) as tunnel,
        ):
            for size in (1, 64, 1_200):
                tunnel.send_batch([bytes([size % 251]) * size])
                assert await tunnel.receive() == bytes([size % 251]) * size
    assert echo.received_count >= 3
