"""with_twin_port: one number for UDP and TCP, and nothing said where nothing can be bound."""

import socket
from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.http.tcp_front import open_listener
from masque_relay.server import twin_port
from masque_relay.server.twin_port import with_twin_port

LOOPBACK = ip_address("127.0.0.1")


def at(port: int, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint(address=ip_address(host), port=port)


def test_number_is_free_for_both() -> None:
    chosen = with_twin_port(at(0))
    with (
        open_listener(chosen),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind((str(LOOPBACK), chosen.port))


def test_number_whose_udp_port_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((str(LOOPBACK), 0))
        taken_port: int = taken.getsockname()[1]
        # What the kernel chooses is not ours to say: here it chooses the taken number at first.
        choices = [at(taken_port), at(0)]
        monkeypatch.setattr(twin_port, "open_listener", lambda _: open_listener(choices.pop(0)))
        assert with_twin_port(at(0)).port not in {0, taken_port}
        assert not choices


@pytest.mark.parametrize("endpoint", [at(4433), at(0, "192.0.2.1")])
def test_number_asked_for_or_impossible_stays(endpoint: Endpoint) -> None:
    assert with_twin_port(endpoint) == endpoint
