"""nginx/quic-passthrough.conf carries tunnels, with a real nginx in front."""

import socket
from pathlib import Path

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayClient, RelayOptions
from tests.support.method_trials import free_port
from tests.support.nginx import run_nginx
from tests.support.relay_process import run_relay
from tests.support.udp_echo import run_udp_echo


@pytest.mark.interop("nginx, QUIC untouched", "CONNECT-UDP", "3")
async def test_a_tunnel_goes_through_nginx_and_keeps_its_datagram_size(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with (
        run_relay(tmp_path) as relay,
        run_udp_echo() as echo,
        run_nginx(
            "quic-passthrough.conf",
            tmp_path,
            listen_address=f"127.0.0.1:{port}",
            relay_address=f"{relay.host}:{relay.port}",
        ),
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
