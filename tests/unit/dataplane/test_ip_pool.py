"""Addresses for tunnels."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.dataplane.ip_pool import NetworkPool


def pool(*networks: str) -> NetworkPool:
    return NetworkPool(ip_network(text) for text in networks)


def test_the_first_host_address_is_the_relays_own() -> None:
    both = pool("10.0.0.0/24", "fd00::/64")
    assert [str(both.gateway(4)), str(both.gateway(6))] == ["10.0.0.1", "fd00::1"]
    assert [str(both.assign(4)), str(both.assign(6))] == ["10.0.0.2", "fd00::2"]
    assert pool("10.0.0.0/24").gateway(6) is None


def test_network_gateway_and_broadcast_are_never_given() -> None:
    small = pool("10.0.0.0/29")
    given_out = [small.assign(4) for _ in range(7)]
    assert [str(address) for address in given_out if address] == [
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
    ]
    assert given_out[5:] == [None, None]
    assert small.assigned_count == 5


def test_ipv6_has_no_broadcast_address() -> None:
    small = pool("fd00::/126")
    assert [str(small.assign(6)), str(small.assign(6))] == ["fd00::2", "fd00::3"]
    assert small.assign(6) is None


def test_what_came_back_is_given_last() -> None:
    small = pool("10.0.0.0/29")
    first = small.assign(4)
    assert first is not None
    small.release(first)
    small.release(first)
    assert [str(small.assign(4)) for _ in range(5)][-1] == str(first)
    assert small.assign(4) is None


def test_the_wanted_address_if_it_is_free() -> None:
    both = pool("10.0.0.0/24", "fd00::/64")
    wanted = ip_address("10.0.0.9")
    assert both.assign(4, wanted) == wanted
    assert both.assign(4, wanted) == ip_address("10.0.0.2")
    assert both.assign(6, wanted) is None
    both.release(wanted)
    assert both.assign(4, wanted) == wanted
    assert both.assign(4, ip_address("10.0.0.1")) != ip_address("10.0.0.1")


@pytest.mark.parametrize(
    ("networks", "complaint"),
    [
        (("10.0.0.0/24", "10.1.0.0/24"), "two pools of IPv4"),
        (("10.0.0.0/31",), "too small"),
        (("fd00::1/128",), "too small"),
    ],
)
def test_networks_that_make_no_pool(networks: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        pool(*networks)


def test_ranges_are_in_the_order_of_routes() -> None:
    ranges = pool("fd00::/64", "10.0.0.0/24").ranges()
    assert [str(entry.first) for entry in ranges] == ["10.0.0.0", "fd00::"]
    assert str(ranges[0].last) == "10.0.0.255"


@given(st.lists(st.none() | st.integers(0, 20), max_size=60))
def test_no_address_is_given_twice(steps: list[int | None]) -> None:
    small = pool("10.0.0.0/28")
    held: list[str] = []
    for step in steps:
        if step is not None and step % 3 == 0 and held:
            small.release(ip_address(held.pop(step % len(held))))
            continue
        wanted = None if step is None else ip_address("10.0.0.0") + step
        address = small.assign(4, wanted)
        assert (address is None) == (len(held) == 13)
        if address is not None:
            assert str(address) not in held
            held.append(str(address))
        assert small.assigned_count == len(held)
