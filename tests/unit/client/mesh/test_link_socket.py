"""LinkSocket: a UDP socket for QUIC, links below."""

import select
from collections.abc import Sequence

from masque_relay.client.mesh.link_socket import (
    MAX_WAITING_BATCHES,
    LinkSocket,
    link_address,
)


def made() -> tuple[LinkSocket, list[tuple[int, list[bytes]]]]:
    sent: list[tuple[int, list[bytes]]] = []

    def send(number: int, payloads: Sequence[bytes]) -> int:
        sent.append((number, list(payloads)))
        return len(payloads)

    return LinkSocket(send), sent


def is_readable(socket: LinkSocket) -> bool:
    return bool(select.select([socket.fileno()], [], [], 0)[0])


def test_it_is_readable_while_something_waits() -> None:
    socket, _ = made()
    assert not is_readable(socket)
    socket.push(7, [b"a", b"b"])
    socket.push(8, [b"c"])
    assert is_readable(socket)

    (first,) = socket.receive_batches(1)
    assert (first.payloads, first.source) == ([b"a", b"b"], link_address(7))
    assert is_readable(socket)
    (second,) = socket.receive_batches(10)
    assert second.source == link_address(8)
    assert not is_readable(socket)
    assert socket.receive_batches(10) == []
    socket.close()


def test_sending_goes_to_the_link_of_the_address() -> None:
    socket, sent = made()

    assert socket.send_batch([b"x", b"y"], link_address(42)) == 2
    assert sent == [(42, [b"x", b"y"])]
    socket.close()


def test_what_nobody_reads_is_bounded_and_counted() -> None:
    socket, _ = made()
    for _ in range(MAX_WAITING_BATCHES + 3):
        socket.push(1, [b"a", b"b"])

    assert socket.dropped_count == 6
    socket.close()
    socket.close()
    socket.push(1, [b"late"])
    assert socket.fileno() == -1
