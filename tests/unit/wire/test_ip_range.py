"""The order of routes (RFC 9484 section 4.7.3)."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.ip_range import IpRange, find_disorder, range_order


def r(first: str, last: str, ip_protocol: int = 0) -> IpRange:
    return IpRange(ip_address(first), ip_address(last), ip_protocol)


GOOD = [
    [],
    [r("0.0.0.0", "255.255.255.255"), r("::", "ffff::")],
    [r("10.0.0.0", "10.0.0.9"), r("10.0.0.10", "10.0.0.10")],
    [r("10.0.0.0", "10.0.0.9", 6), r("10.0.0.0", "10.0.0.9", 17)],
    [r("10.0.0.0", "10.0.0.9"), r("10.0.1.0", "10.0.1.9", 17)],
]
BAD = {
    "families": [r("::", "::1"), r("10.0.0.0", "10.0.0.1")],
    "protocols": [r("10.0.0.0", "10.0.0.1", 17), r("10.0.1.0", "10.0.1.1", 6)],
    "addresses": [r("10.0.1.0", "10.0.1.1"), r("10.0.0.0", "10.0.0.1")],
    "equal": [r("10.0.0.0", "10.0.0.1"), r("10.0.0.0", "10.0.0.1")],
    "touching": [r("10.0.0.0", "10.0.0.5"), r("10.0.0.5", "10.0.0.9")],
    "backwards": [r("10.0.0.9", "10.0.0.1")],
    "two families": [r("10.0.0.9", "::")],
    "all and one protocol": [r("10.0.0.0", "10.0.0.9"), r("10.0.0.9", "10.0.0.9", 6)],
    "one inside all": [r("10.0.0.0", "10.0.0.99"), r("10.0.0.7", "10.0.0.9", 6)],
    "one around all": [r("10.0.0.8", "10.0.0.9"), r("10.0.0.0", "10.0.0.99", 6)],
}


@pytest.mark.parametrize("routes", GOOD)
def test_sorted_and_disjoint_is_in_order(routes: list[IpRange]) -> None:
    assert find_disorder(routes) is None


@pytest.mark.parametrize("kind", BAD)
def test_anything_else_is_not(kind: str) -> None:
    assert find_disorder(BAD[kind]) is not None


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 8), st.sampled_from([0, 6, 17])), max_size=6
    )
)
def test_in_order_means_that_no_two_for_one_packet_overlap(
    shapes: list[tuple[int, int, int]],
) -> None:
    base = int(ip_address("10.0.0.0"))
    routes = sorted(
        (
            IpRange(ip_address(base + first), ip_address(base + first + size), protocol)
            for first, size, protocol in shapes
        ),
        key=range_order,
    )

    def clash(one: IpRange, other: IpRange) -> bool:
        same = one.ip_protocol == other.ip_protocol or 0 in (one.ip_protocol, other.ip_protocol)
        touch = int(one.first) <= int(other.last) and int(other.first) <= int(one.last)
        return same and touch

    pairs = [(a, b) for i, a in enumerate(routes) for b in routes[i + 1 :]]
    assert (find_disorder(routes) is not None) == any(clash(a, b) for a, b in pairs)
