"""Tickets: an allocation follows its client (RFC 8016)."""

import pytest

from fallbacks.turn.path import PathKind
from masque_relay.stun.codepoints import Attribute
from tests.support.turn_rig import PEER, RigClient, TurnRig, error_name

TICKET = Attribute.MOBILITY_TICKET


@pytest.fixture
def client(rig: TurnRig) -> RigClient:
    made = rig.client()
    reply = made.try_allocate([(TICKET, b"")])
    assert reply.ok
    made.ticket = reply[TICKET]  # type: ignore[attr-defined]  # for the tests below
    made.bind_channel(0x4000, PEER)
    return made


def moved(rig: TurnRig, client: RigClient, **changes: object) -> RigClient:
    path = rig.path(address="203.0.113.99", port=50_000)
    return rig.client(path=path, credentials=client.credentials, **changes)


def ticket_of(client: RigClient) -> bytes:
    ticket: bytes = client.ticket  # type: ignore[attr-defined]  # set by the fixture
    return ticket


def fresh_nonce(client: RigClient) -> None:
    client.challenge()


def test_datagrams_go_to_the_old_path_until_something_comes_by_the_new_one(
    rig: TurnRig, client: RigClient
) -> None:
    later = moved(rig, client)
    fresh_nonce(later)
    reply = later.refresh(600, [(TICKET, ticket_of(client))])
    assert reply.ok
    assert reply[TICKET] != ticket_of(client)
    relay_socket = rig.relay_sockets[0]
    client.received()
    later.received()
    relay_socket.arrive(PEER, b"one")
    rig.readable(relay_socket)
    assert client.received() == [b"\x40\x00\x00\x03one"]
    later.send_channel(0x4000, b"here I am")
    relay_socket.arrive(PEER, b"two")
    rig.readable(relay_socket)
    assert client.received() == []
    assert later.received() == [b"\x40\x00\x00\x03two"]
    assert client.path.allocation is None
    assert not client.path.is_kept
    assert rig.counters.moves == 1


def test_the_old_connection_is_closed_after_a_move(rig: TurnRig) -> None:
    path = rig.path(kind=PathKind.TCP)
    client = rig.client(path=path)
    ticket = client.try_allocate([(TICKET, b"")])[TICKET]
    later = moved(rig, client)
    fresh_nonce(later)
    assert later.refresh(600, [(TICKET, ticket)]).ok
    assert later.refresh(600).ok
    assert path.is_closed


def test_a_lost_connection_leaves_an_allocation_with_a_ticket(rig: TurnRig) -> None:
    client = rig.client(path=rig.path(kind=PathKind.TCP))
    ticket = client.try_allocate([(TICKET, b"")])[TICKET]
    rig.session.path_lost(client.path)
    assert len(rig.session.allocations) == 1
    later = moved(rig, client)
    fresh_nonce(later)
    assert later.refresh(600, [(TICKET, ticket)]).ok


def test_a_repeated_refresh_is_answered_again(rig: TurnRig, client: RigClient) -> None:
    later = moved(rig, client)
    fresh_nonce(later)
    assert later.refresh(600, [(TICKET, ticket_of(client))]).ok
    assert later.refresh(600, [(TICKET, ticket_of(client))]).ok


def test_an_unknown_ticket_is_a_mismatch(rig: TurnRig, client: RigClient) -> None:
    later = moved(rig, client)
    fresh_nonce(later)
    assert error_name(later.refresh(600, [(TICKET, bytes(24))])) == "ALLOCATION_MISMATCH"


def test_somebody_elses_ticket_is_of_no_use(rig: TurnRig, client: RigClient) -> None:
    thief = rig.client("bob", path=rig.path(port=41_000))
    fresh_nonce(thief)
    reply = thief.refresh(600, [(TICKET, ticket_of(client))])
    assert error_name(reply) == "WRONG_CREDENTIALS"
    assert client.path.allocation is not None


def test_without_a_ticket_there_is_none_to_show(rig: TurnRig) -> None:
    client = rig.client()
    assert client.try_allocate().message.get(TICKET) is None
    assert error_name(client.refresh(600, [(TICKET, bytes(24))])) == "BAD_REQUEST"


def test_the_end_forgets_the_ticket(rig: TurnRig, client: RigClient) -> None:
    client.refresh(0)
    assert rig.session.mobility.find(ticket_of(client)) is None
