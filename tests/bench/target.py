"""Owns the target process: counts what comes up, sends what goes down, echoes.

Never more than a window ahead of the other end, so that what is measured is a relay that always has
work and rarely drops. Prints its port and serves until its standard input closes.
"""

import select
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address

from masque_relay.contract.address import Endpoint
from masque_relay.dataplane.batch_io import BatchUdpSocket, bind_udp
from tests.bench.messages import (
    ACK,
    DOWNLINK,
    ECHO,
    HEAD_BYTES,
    START,
    STOP,
    UPLINK,
    Message,
    decode_message,
)

Address = tuple[str, int]
BURST = 64
STALL_S = 0.02
"""Everything that is still on its way after such a silence is lost."""


@dataclass(slots=True)
class Download:
    """One flow towards a generator."""

    destination: Address
    flow: int
    window: int
    padding: bytes
    sent: int = 0
    acked: int = 0
    acked_before: int = 0

    def burst(self) -> list[bytes]:
        count = min(BURST, self.window - (self.sent - self.acked))
        first = self.sent
        self.sent += max(count, 0)
        return [
            Message(DOWNLINK, self.flow, number).encode() + self.padding
            for number in range(first, self.sent)
        ]


class Target:
    """The state of the process."""

    def __init__(self, data: BatchUdpSocket) -> None:
        self._data = data
        self._received: dict[int, int] = {}
        self._downloads: dict[int, Download] = {}

    def serve(self) -> None:
        """Serve until standard input closes."""
        while True:
            timeout_s = STALL_S if self._downloads else None
            readable, _, _ = select.select([self._data, sys.stdin], [], [], timeout_s)
            if sys.stdin in readable:
                return
            if not readable:
                self._forgive()
            for batch in self._data.receive_batches(256):
                self._take(batch.payloads, batch.source)
            for download in self._downloads.values():
                if burst := download.burst():
                    self._data.send_batch(burst, download.destination)

    def _take(self, payloads: list[bytes], source: Address) -> None:
        uplink: list[bytes] = []
        echoes: list[bytes] = []
        for payload in payloads:
            match payload[0]:
                case kind if kind == UPLINK:
                    uplink.append(payload)
                case kind if kind == ECHO:
                    echoes.append(payload)
                case _:
                    self._control(decode_message(payload), source)
        if echoes:
            self._data.send_batch(echoes, source)
        if uplink:
            last = decode_message(uplink[-1])
            total = self._received[last.flow] = self._received.get(last.flow, 0) + len(uplink)
            answer = Message(ACK, last.flow, last.sequence + 1).encode() + total.to_bytes(8, "big")
            self._data.send_batch([answer], (source[0], last.ack_port))

    def _control(self, message: Message, source: Address) -> None:
        if message.kind == START:
            padding = bytes(message.size_bytes - HEAD_BYTES)
            self._downloads[message.flow] = Download(source, message.flow, message.window, padding)
        elif message.kind == STOP:
            self._downloads.pop(message.flow, None)
            self._received.pop(message.flow, None)
        elif message.kind == ACK and (download := self._downloads.get(message.flow)):
            download.acked = max(download.acked, message.sequence)

    def _forgive(self) -> None:
        for download in self._downloads.values():
            if download.acked == download.acked_before:
                download.acked = download.sent
            download.acked_before = download.acked


def main() -> None:
    """Run the process."""
    data = bind_udp(Endpoint(address=IPv4Address("127.0.0.1"), port=0))
    print(data.local.port, flush=True)  # noqa: T201 - its output
    Target(data).serve()


if __name__ == "__main__":
    main()
