"""Tests what the data plane hands to a flow."""

from ipaddress import ip_address
from typing import Any

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.dataplane import inproc
from masque_relay.dataplane.inproc import InprocDataplane


@pytest.mark.parametrize(
    ("target", "egress"),
    [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", None)],
)
async def test_flows_leave_from_the_configured_address_of_their_family(
    monkeypatch: pytest.MonkeyPatch, target: str, egress: str | None
) -> None:
    opened: list[tuple[Endpoint, Any]] = []

    def record(endpoint: Endpoint, _sink: Any, **options: Any) -> None:
        opened.append((endpoint, options["egress_address"]))

    monkeypatch.setattr(inproc.ConnectedUdpFlow, "open", record)
    sut = InprocDataplane(egress_addresses=[ip_address("198.51.100.7")])
    any_value: Any = None
    endpoint = Endpoint(address=ip_address(target), port=53)
    sut.open_udp(any_value, endpoint, any_value)
    await sut.close()
    assert opened == [(endpoint, ip_address(egress) if egress else None)]


async def test_a_bad_nameserver_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="not-an-address"):
        InprocDataplane(nameservers=["not-an-address"])
