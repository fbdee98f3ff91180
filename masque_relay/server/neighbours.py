"""Owns the packets that workers hand each other: a mailbox per slot, of a socket pair each."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from masque_relay.contract.ports import ReceivedBatch
from masque_relay.quic.slots import SlotRoutes, slot_for_stranger

PACKETS_PER_TURN = 64
"""Handed over packets are rare; a burst of them must not keep the loop from its own socket."""
_MAX_MESSAGE_BYTES = 65_536 + 64


class Mailboxes:
    """The pairs of all slots; the supervisor makes them and keeps them open."""

    def __init__(self, pairs: Sequence[tuple[socket.socket, socket.socket]]) -> None:
        self.pairs = tuple(pairs)

    @classmethod
    def make(cls, slot_count: int) -> "Mailboxes":
        """Return empty mailboxes."""
        # Records like datagrams, but bounded by bytes: a Unix datagram socket holds ten.
        return cls(
            [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(slot_count)]
        )

    @classmethod
    def adopt(cls, descriptors: Sequence[Sequence[int]]) -> "Mailboxes":
        """Take over what :meth:`descriptors` of another process gave."""
        return cls(
            [(socket.socket(fileno=one), socket.socket(fileno=two)) for one, two in descriptors]
        )

    def descriptors(self) -> list[list[int]]:
        """Return the descriptors, JSON-ready: of the end to read and of the end to write."""
        return [[reader.fileno(), writer.fileno()] for reader, writer in self.pairs]

    def close(self) -> None:
        """Close all."""
        for pair in self.pairs:
            for end in pair:
                end.close()


class MailboxNeighbours:
    """The other workers as one worker reaches them; implements quic.slots.Neighbours.

    A packet that does not fit the mailbox of its owner is lost, as it would be in a full socket;
    ``dropped_count`` counts those.
    """

    def __init__(
        self,
        slot: int,
        routes: SlotRoutes,
        *,
        reader: socket.socket,
        writers: Sequence[socket.socket],
    ) -> None:
        """Take this slot's mailbox, and the writing ends of all by slot."""
        self.routes = routes
        """May be replaced at any time."""
        self.dropped_count = 0
        self._slot = slot
        self._reader = reader
        self._writers = tuple(writers)
        for end in (reader, *writers):
            end.settimeout(0)
        self._take: Callable[[list[ReceivedBatch]], None] | None = None

    def hand_over(self, data: bytes, source: tuple[str, int]) -> bool:
        """Give a packet of no connection of ours to whose it may be."""
        slot = slot_for_stranger(data, self.routes, self._slot)
        if slot is None:
            return False
        try:
            self._writers[slot].send(encode_handed_over(data, source))
        except OSError:
            self.dropped_count += 1
        return True

    def open(self, take: Callable[[list[ReceivedBatch]], None]) -> None:
        """Deliver what comes from now on; what lies here is for somebody who had the slot before.

        To be called in the event loop.
        """
        while self._receive():
            pass
        self._take = take
        asyncio.get_running_loop().add_reader(self._reader.fileno(), self._on_readable)

    def close(self) -> None:
        """Take no more."""
        if self._take is not None:
            self._take = None
            asyncio.get_running_loop().remove_reader(self._reader.fileno())

    def _on_readable(self) -> None:
        batches = self._receive()
        if batches and self._take is not None:
            self._take(batches)

    def _receive(self) -> list[ReceivedBatch]:
        batches: list[ReceivedBatch] = []
        for _ in range(PACKETS_PER_TURN):
            try:
                message = os.read(self._reader.fileno(), _MAX_MESSAGE_BYTES)
            except OSError:
                break
            if not message:
                break
            data, source = decode_handed_over(message)
            batches.append(ReceivedBatch([data], source))
        return batches


def encode_handed_over(data: bytes, source: tuple[str, int]) -> bytes:
    """Return the record of a packet: length of the host, host, port, packet."""
    host = source[0].encode()
    return bytes((len(host),)) + host + source[1].to_bytes(2, "big") + data


def decode_handed_over(message: bytes) -> tuple[bytes, tuple[str, int]]:
    """Return packet and source; only our own processes write records."""
    end = 1 + message[0]
    port = int.from_bytes(message[end : end + 2], "big")
    return message[end + 2 :], (message[1:end].decode(), port)
