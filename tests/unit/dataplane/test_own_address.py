"""A target that is this host under a public address is refused (SSRF past the host's firewall)."""

import socket
from ipaddress import ip_address
from typing import Self

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.dataplane.own_address import is_own_public, not_own

OWN = "8.8.8.8"
OTHER = "9.9.9.9"


class HostWithOneAddress:
    """Stands for the kernel of a host that has the address OWN and no other."""

    def __init__(self, family: int, kind: int) -> None:
        assert kind == socket.SOCK_DGRAM
        self._family = family

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def bind(self, address: tuple[str, int]) -> None:
        if address[0] != OWN:
            raise OSError(99, "Cannot assign requested address")


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masque_relay.dataplane.own_address.socket.socket", HostWithOneAddress)


@pytest.mark.parametrize(
    ("address", "expected"),
    [(OWN, True), (OTHER, False), ("127.0.0.1", False), ("10.0.0.1", False), ("224.0.1.1", False)],
)
def test_only_a_public_address_of_this_host_is_its_own(address: str, *, expected: bool) -> None:
    assert is_own_public(ip_address(address)) is expected


def test_own_endpoints_are_left_out_and_order_is_kept() -> None:
    own, other = (Endpoint(address=ip_address(a), port=53) for a in (OWN, OTHER))
    assert not_own([own, other]) == [other]
    with pytest.raises(FlowError) as caught:
        not_own([own])
    assert caught.value.fault is FlowFault.DESTINATION_IP_PROHIBITED
