"""A socket that QUIC and TURN share: no datagram goes astray (RFC 9443)."""

from collections.abc import Sequence
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from fallbacks.turn.allocation import Source
from fallbacks.turn.shared_socket import SharedSocket
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.stun.codepoints import MessageClass, Method
from masque_relay.stun.message import encode_message

STUN = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12))
STRANGER, KNOWN = ("203.0.113.7", 4000), ("203.0.113.8", 4000)


class Inner:
    local = Endpoint(address=ip_address("192.0.2.1"), port=443)

    def __init__(self) -> None:
        self.batches: list[ReceivedBatch] = []
        self.sent: list[tuple[list[bytes], Source]] = []
        self.is_closed = False

    def fileno(self) -> int:
        return 7

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        return self.batches

    def send_batch(self, payloads: Sequence[bytes], destination: Source) -> int:
        self.sent.append((list(payloads), destination))
        return len(payloads)

    def close(self) -> None:
        self.is_closed = True


class Taker:
    def __init__(self) -> None:
        self.taken: list[tuple[Source, list[bytes]]] = []

    def knows(self, source: Source) -> bool:
        return source == KNOWN

    def take(self, source: Source, datagrams: Sequence[bytes]) -> None:
        self.taken.append((source, list(datagrams)))


def split(*batches: tuple[Source, list[bytes]]) -> tuple[list[tuple[Source, list[bytes]]], Taker]:
    inner, taker = Inner(), Taker()
    inner.batches = [ReceivedBatch(payloads, source) for source, payloads in batches]
    shared = SharedSocket(inner)
    shared.share_with(taker)
    return [(batch.source, batch.payloads) for batch in shared.receive_batches(10)], taker


@given(first=st.integers(0x40, 0xFF), rest=st.binary(max_size=40))
def test_every_quic_packet_of_a_stranger_stays_with_quic(first: int, rest: bytes) -> None:
    packet = bytes((first,)) + rest
    kept, taker = split((STRANGER, [packet]))
    assert kept == [(STRANGER, [packet])]
    assert taker.taken == []


def test_stun_of_a_stranger_goes_to_turn_and_the_rest_does_not() -> None:
    kept, taker = split((STRANGER, [b"\x40quic", STUN, b"\xc0quic", b"\0no cookie at all at all"]))
    assert kept == [(STRANGER, [b"\x40quic", b"\xc0quic", b"\0no cookie at all at all"])]
    assert taker.taken == [(STRANGER, [STUN])]


def test_channel_data_of_a_known_client_goes_to_turn() -> None:
    kept, taker = split((KNOWN, [b"\x40\0\0\1x"]), (STRANGER, [b"\x40\0\0\1x"]))
    assert kept == [(STRANGER, [b"\x40\0\0\1x"])]
    assert taker.taken == [(KNOWN, [b"\x40\0\0\1x"])]


def test_nothing_is_taken_before_it_is_shared() -> None:
    inner = Inner()
    inner.batches = [ReceivedBatch([STUN], STRANGER)]
    shared = SharedSocket(inner)
    assert shared.receive_batches(10) == inner.batches
    assert (shared.local, shared.fileno()) == (inner.local, 7)
    assert shared.send_batch([b"x"], STRANGER) == 1
    assert inner.sent == [([b"x"], STRANGER)]
    shared.close()
    assert inner.is_closed
