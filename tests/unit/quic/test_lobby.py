"""Newcomers that are admitted but not begun."""

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.admission import Admission
from masque_relay.quic.doorkeeper import Doorkeeper
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.lobby import NEW_CONNECTIONS_PER_TURN, NEWCOMER_PACKETS, Lobby
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.quic.table import Port
from tests.unit.quic.test_doorkeeper import initial
from tests.unit.quic.test_table import NoSocket

SOURCE = ("192.0.2.7", 4433)
PORT = Port(NoSocket())


class StandingClock:
    def monotonic_s(self) -> float:
        return 1.0

    def wall_s(self) -> float:
        return 1_800_000_000.0


class Room:
    def __init__(self, **limits: int) -> None:
        settings = QuicLimits(**limits)  # type: ignore[arg-type]  # integer fields only
        self.counters = QuicCounters()
        admission = Admission(settings, self.counters)
        keeper = Doorkeeper(admission, self.counters, settings, EndpointSecrets.generate())
        self.lobby = Lobby(keeper, admission, self.counters, StandingClock())

    def meet(self, data: bytes, source: tuple[str, int] = SOURCE) -> bytes | None:
        return self.lobby.meet(PORT, data, source, 1.0)


def numbered(number: int) -> bytes:
    return initial(destination_cid=number.to_bytes(8, "big"))


def test_newcomer_is_counted_when_seated_and_leaves_with_its_packets() -> None:
    room = Room()
    assert room.meet(initial()) is None
    assert room.meet(initial() + b"more") is None
    assert room.counters.connections_half_open == 1
    assert room.counters.connections_opened == 1
    (waiting,) = room.lobby.leave()
    assert waiting.packets == [initial(), initial() + b"more"]
    assert waiting.newcomer.original_destination_cid == b"original"
    assert len(room.lobby) == 0


def test_packets_kept_for_a_newcomer_are_bounded_and_from_its_source_only() -> None:
    room = Room()
    for _ in range(10):
        room.meet(initial())
        room.meet(initial(), ("192.0.2.8", 4433))
    (waiting,) = room.lobby.leave()
    assert len(waiting.packets) == NEWCOMER_PACKETS
    assert waiting.source == SOURCE


def test_burst_begins_a_few_at_a_time_in_order() -> None:
    room = Room()
    for number in range(20):
        room.meet(numbered(number))
    first = room.lobby.leave()
    assert [waiting.initial_cid for waiting in first] == [
        number.to_bytes(8, "big") for number in range(NEW_CONNECTIONS_PER_TURN)
    ]
    assert len(room.lobby) == 20 - NEW_CONNECTIONS_PER_TURN


def test_burst_turns_retry_on_while_it_arrives() -> None:
    room = Room(retry_half_open_count=5)
    answers = [room.meet(numbered(number)) for number in range(8)]
    assert [answer is not None for answer in answers] == [False] * 5 + [True] * 3
    assert room.counters.retries_sent == 3
    assert len(room.lobby) == 5


def test_cleared_lobby_gives_its_places_back() -> None:
    room = Room()
    room.meet(initial())
    room.lobby.clear()
    assert room.counters.connections_half_open == 0
    assert room.lobby.leave() == []


def test_what_is_no_quic_is_dropped_and_counted() -> None:
    room = Room()
    for data in (b"", b"\x00", b"\x16\xfe\xfd", b"\x80" * 1200, b"\xc0"):
        assert room.meet(data) is None
    assert room.counters.packets_unroutable == 5
    assert room.counters.connections_opened == 0


class Neighbour:
    """Takes what begins with one of its bytes."""

    def __init__(self, *first_bytes: int) -> None:
        self.first_bytes = first_bytes
        self.taken: list[tuple[bytes, tuple[str, int]]] = []

    def hand_over(self, data: bytes, source: tuple[str, int]) -> bool:
        if data[0] not in self.first_bytes:
            return False
        self.taken.append((data, source))
        return True


def test_a_packet_of_another_worker_is_handed_over_instead_of_answered() -> None:
    room = Room()
    room.lobby.neighbours = neighbour = Neighbour(0x40, initial()[0])
    lost = b"\x40" + bytes(40)
    assert room.meet(lost) is None
    assert room.meet(initial()) is None
    assert neighbour.taken == [(lost, SOURCE), (initial(), SOURCE)]
    assert room.counters.packets_handed_over == 2
    assert room.counters.stateless_resets_sent == room.counters.connections_opened == 0


def test_what_no_neighbour_takes_is_met_here() -> None:
    room = Room()
    room.lobby.neighbours = Neighbour()
    assert room.meet(b"\x40" + bytes(40)) is not None
    assert room.meet(initial()) is None
    assert room.counters.connections_opened == 1
    assert room.counters.packets_handed_over == 0


def test_the_packets_of_a_seated_newcomer_stay_here() -> None:
    room = Room()
    room.meet(initial())
    room.lobby.neighbours = neighbour = Neighbour(initial()[0])
    room.meet(initial())
    assert not neighbour.taken
    assert len(room.lobby.leave()[0].packets) == 2
