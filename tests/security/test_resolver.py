"""A client with a DNS zone of its own: answers as large as DNS can carry, name after name."""

import socket
import struct
import threading
from collections.abc import Generator
from contextlib import suppress

import pytest

from masque_relay.contract.counters import FlowCounters
from masque_relay.dataplane import resolver
from masque_relay.dataplane.limits import ResolverLimits
from masque_relay.dataplane.resolver import FamilyPreference, Resolver

RECORDS = 3_500  # A records in 56 KiB
TIMEOUT_S = 20.0


class LargeAnswers:
    """A DNS server that has RECORDS addresses for every name; over UDP they don't fit."""

    def __init__(self) -> None:
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._tcp.getsockname()[1]
        self._udp = socket.socket(type=socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        record = b"\xc0\x0c\x00\x01\x00\x01" + struct.pack(">IH", 3_600, 4)
        self._answers = b"".join(
            record + struct.pack(">I", 0x0800_0000 + number) for number in range(RECORDS)
        )
        for target in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=target, daemon=True).start()

    def close(self) -> None:
        for sock in (self._tcp, self._udp):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread
            sock.close()

    def _reply(self, query: bytes, *, is_truncated: bool) -> bytes:
        question = query[12 : query.index(0, 12) + 5]
        flags, count = (0x8780, 0) if is_truncated else (0x8580, RECORDS)
        head = query[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0)
        return head + question + (b"" if is_truncated else self._answers)

    def _serve_udp(self) -> None:
        while True:
            try:
                query, source = self._udp.recvfrom(4_096)
            except OSError:
                return
            if not query:
                return
            self._udp.sendto(self._reply(query, is_truncated=True), source)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while len(head := stream.read(2)) == 2:
                query = stream.read(int.from_bytes(head, "big"))
                reply = self._reply(query, is_truncated=False)
                connection.sendall(len(reply).to_bytes(2, "big") + reply)


@pytest.fixture
def server() -> Generator[LargeAnswers]:
    server = LargeAnswers()
    yield server
    server.close()


async def test_answers_as_large_as_dns_allows_do_not_fill_memory(
    server: LargeAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ResolverLimits(attempt_timeout_s=5.0)
    monkeypatch.setattr(resolver, "MAX_ARES_RECORDS", 10 * RECORDS)
    sut = Resolver(
        limits=limits,
        counters=FlowCounters(),
        nameservers=[f"127.0.0.1:{server.port}"],
        preference=FamilyPreference.IPV4_ONLY,
    )
    engines = {id(sut._ares): sut._ares}
    for number in range(30):
        found = await sut.resolve(f"n{number}.large.test", timeout_s=TIMEOUT_S)
        assert len(found) == limits.max_addresses
        engines[id(sut._ares)] = sut._ares
    kept = [answer for _, answer in sut._cache.values()]
    assert sum(len(answer.addresses) for answer in kept) == 30 * limits.max_addresses
    assert len(engines) == 3, "c-ares was not replaced, with its cache, every ten answers"
    await sut.close()
