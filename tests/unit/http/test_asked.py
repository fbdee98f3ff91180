"""What a tunnel request asks for: the target that the template's variables name."""

from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Target
from masque_relay.contract.request import Method
from masque_relay.http.asked import asks_for_target
from masque_relay.wire.errors import WireError


def test_target_is_read_from_the_variables_and_normalised() -> None:
    read = asks_for_target(Method.CONNECT_TCP)
    asked = read({"path_params": {"target_host": "Example.ORG.", "target_port": "443"}})

    assert asked.method is Method.CONNECT_TCP
    assert asked.target == Target(host="example.org", port=443)
    assert asked.ip_scope is None


def test_address_is_read_as_an_address() -> None:
    read = asks_for_target(Method.CONNECT_UDP)
    asked = read({"path_params": {"target_host": "2001:db8::1", "target_port": "53"}})

    assert asked.target == Target(host=ip_address("2001:db8::1"), port=53)


@pytest.mark.parametrize(
    ("host", "port"), [("", "53"), ("a b", "53"), ("192.0.2.7", "0"), ("192.0.2.7", "65536")]
)
def test_what_is_no_target_is_refused(host: str, port: str) -> None:
    read = asks_for_target(Method.CONNECT_UDP)

    with pytest.raises(WireError):
        read({"path_params": {"target_host": host, "target_port": port}})
