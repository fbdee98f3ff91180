"""Ports of relayed addresses."""

from masque_relay.stun.codepoints import AddressFamily
from tests.support.turn_rig import RELAY_V4, TurnRig
from tests.unit.fallbacks.turn.conftest import MakeRig


def test_random_ports_stay_within_the_range_and_are_even_where_asked(make_rig: MakeRig) -> None:
    rig = make_rig(first_port=50_001, last_port=50_010)
    assert all(50_001 <= port <= 50_010 for port in rig.session.ports.random_ports())
    evens = list(rig.session.ports.random_ports(even=True))
    assert evens
    assert all(50_001 <= port <= 50_010 and port % 2 == 0 for port in evens)


def test_a_closed_address_is_forgotten(rig: TurnRig) -> None:
    ports = rig.session.ports
    address = ports.address_for(AddressFamily.IPV4)
    assert address is not None
    relayed = ports.open(address)
    source = (str(RELAY_V4), relayed.public.port)
    assert ports.is_relayed(source)
    ports.close(relayed)
    assert not ports.is_relayed(source)
    assert ports.local_of(source) == source
    assert ports.public_of(source) == source


def test_a_pair_is_an_even_port_and_the_next_one(rig: TurnRig) -> None:
    ports = rig.session.ports
    address = ports.address_for(AddressFamily.IPV4)
    assert address is not None
    even, token = ports.open_pair(address)
    odd = ports.take_reserved(token)
    assert odd is not None
    assert (even.public.port % 2, odd.public.port) == (0, even.public.port + 1)
    assert ports.take_reserved(token) is None
