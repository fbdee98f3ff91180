"""Owns the tests of what leads into a split tunnel and what never does."""

from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.client.errors import AddressError
from masque_relay.client.ip_routes import (
    host_network,
    parse_network,
    split_routes,
    unreachable,
)
from masque_relay.contract.ip_scope import IPNetwork, IpRange


def nets(*texts: str) -> list[IPNetwork]:
    return [ip_network(text) for text in texts]


def covers(routes: list[IPNetwork], address: str) -> bool:
    return any(IPv4Address(address) in route for route in routes if route.version == 4)


def test_a_route_alone_stays_as_it_is() -> None:
    wanted = nets("10.0.0.0/8", "2001:db8::/32")
    assert split_routes(wanted, excluded=[]) == wanted


def test_everything_goes_in_as_two_halves_beside_the_default_route() -> None:
    assert split_routes(nets("0.0.0.0/0", "::/0"), excluded=[]) == nets(
        "0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"
    )


def test_the_relay_itself_is_cut_out() -> None:
    routes = split_routes(nets("0.0.0.0/0"), excluded=nets("203.0.113.5/32"))
    assert not covers(routes, "203.0.113.5")
    assert covers(routes, "203.0.113.4")
    assert covers(routes, "203.0.113.6")
    assert len(routes) == 32


def test_overlapping_wishes_become_disjoint() -> None:
    assert split_routes(nets("10.0.0.0/8", "10.1.0.0/16"), excluded=[]) == nets("10.0.0.0/8")


def test_an_exclusion_outside_changes_nothing() -> None:
    assert split_routes(nets("10.0.0.0/8"), excluded=nets("11.0.0.0/8")) == nets("10.0.0.0/8")


def test_networks_of_this_machine_stay_preferred_beside_small_pieces() -> None:
    # The relay is in our own network: without this its neighbours would go through the relay,
    # because what is left around it is narrower than the network.
    routes = split_routes(
        nets("0.0.0.0/0"), excluded=nets("192.0.2.1/32"), present=nets("192.0.2.0/24", "0.0.0.0/0")
    )
    assert not covers(routes, "192.0.2.7")
    assert covers(routes, "192.0.3.7")


def test_a_wanted_network_beats_an_equal_or_wider_one_of_this_machine() -> None:
    present = nets("10.0.0.0/8", "0.0.0.0/0")
    assert split_routes(nets("10.0.0.0/8"), excluded=[], present=present) == nets("10.0.0.0/8")


def test_nothing_left_is_an_error_with_a_hint() -> None:
    with pytest.raises(AddressError, match="nothing is left") as caught:
        split_routes(nets("10.1.0.0/16"), excluded=nets("10.0.0.0/8"))
    assert caught.value.hint


def test_too_many_pieces_are_an_error() -> None:
    holes = [IPv4Network((number << 12, 32)) for number in range(2_000)]
    with pytest.raises(AddressError, match="more than"):
        split_routes(nets("0.0.0.0/0"), excluded=holes)


@given(
    wanted=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 16)), min_size=1),
    excluded=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)), max_size=6),
    probe=st.integers(0, 2**32 - 1),
)
def test_an_address_goes_in_exactly_if_wanted_and_not_excluded(
    wanted: list[tuple[int, int]], excluded: list[tuple[int, int]], probe: int
) -> None:
    asked = [IPv4Network(pair, strict=False) for pair in wanted]
    holes = [IPv4Network(pair, strict=False) for pair in excluded]
    try:
        routes = split_routes(asked, excluded=holes)
    except AddressError:
        return
    for number in {probe, *(int(hole.network_address) for hole in holes)}:
        address = IPv4Address(number)
        expected = any(address in one for one in asked) and not any(address in h for h in holes)
        assert sum(address in route for route in routes) == int(expected)


def test_a_single_address_and_a_prefix_are_read() -> None:
    assert parse_network("10.0.0.1") == ip_network("10.0.0.1/32")
    assert parse_network("2001:db8::/32") == ip_network("2001:db8::/32")
    assert host_network(IPv4Address("10.0.0.1")) == ip_network("10.0.0.1/32")


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "example.org", "10.0.0.0/33"])
def test_what_is_no_network_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_network(text)
    assert "10.0.0.0/8" in str(caught.value.hint)


def test_networks_that_the_relay_does_not_advertise_are_told() -> None:
    routes = [
        IpRange(IPv4Address("10.0.0.0"), IPv4Address("10.0.0.255")),
        IpRange(IPv4Address("10.2.0.0"), IPv4Address("10.2.255.255")),
    ]
    assert unreachable(nets("10.0.0.0/8", "10.2.3.0/24"), routes) == []
    assert unreachable(nets("10.1.0.0/16", "2001:db8::/32"), routes) == nets(
        "10.1.0.0/16", "2001:db8::/32"
    )
