"""Which NAT there is, as RFC 5780 finds it: a STUN server behind NATs of all kinds."""

import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from masque_relay.client.mesh.nat_kind import NatKind, find_nat

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
COOKIE = 0x2112A442
Seen = Callable[[int, int], int]
"""From which port of the NAT a server's address (0, 1) and port (0, 1) hear us."""


class NattedServer:
    """Answers as an RFC 5780 server behind a NAT that maps and filters as it is told."""

    def __init__(self, seen: Seen | None, changes: frozenset[int], *, has_other: bool) -> None:
        self._seen = seen
        self._changes = changes
        self._has_other = has_other
        self.ports: tuple[int, ...] = ()
        self._sockets = {(ip, port): self._bind(ip, port) for ip in (0, 1) for port in (0, 1)}
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._serve, args=where, daemon=True) for where in self._sockets
        ]
        for thread in self._threads:
            thread.start()

    def _bind(self, ip: int, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(0.1)
        made.bind((SECOND, self.ports[port]) if ip else (FIRST, 0))
        if not ip:
            self.ports += (made.getsockname()[1],)
        return made

    def _serve(self, ip: int, port: int) -> None:
        while not self._is_over:
            try:
                request, source = self._sockets[ip, port].recvfrom(2_048)
            except TimeoutError:
                continue
            change = request[27] if len(request) >= 28 else 0
            if change and change not in self._changes:
                continue  # the NAT lets no answer from there in
            seen_port = source[1] if self._seen is None else self._seen(ip, port)
            body = self._address(0x0020, FIRST, seen_port, COOKIE)
            if self._has_other:
                body += self._address(0x802C, SECOND, self.ports[1], 0)
            head = struct.pack("!HHI", 0x0101, len(body), COOKIE) + request[8:20]
            self._sockets[ip, port].sendto(head + body, source)

    def _address(self, kind: int, address: str, port: int, mask: int) -> bytes:
        masked = int.from_bytes(socket.inet_aton(address)) ^ mask
        return struct.pack("!HHBBHI", kind, 8, 0, 1, port ^ mask >> 16, masked)

    def close(self) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()
        for one in self._sockets.values():
            one.close()


@contextmanager
def natted(
    seen: Seen | None, changes: frozenset[int] = frozenset(), *, has_other: bool = True
) -> Generator[tuple[str, int]]:
    server = NattedServer(seen, changes, has_other=has_other)
    try:
        yield FIRST, server.ports[0]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("seen", "changes", "kind"),
    [
        (lambda *_: 7_000, frozenset({6, 2}), NatKind.FULL_CONE),
        (lambda *_: 7_000, frozenset({2}), NatKind.ADDRESS_RESTRICTED),
        (lambda *_: 7_000, frozenset(), NatKind.PORT_RESTRICTED),
        (lambda ip, _: 7_000 + ip, frozenset(), NatKind.SYMMETRIC),
        (lambda ip, port: 7_000 + 2 * ip + port, frozenset(), NatKind.SYMMETRIC),
    ],
)
async def test_nat_is_told_by_how_it_maps_and_filters(
    seen: Seen, changes: frozenset[int], kind: NatKind
) -> None:
    with natted(seen, changes) as observer:
        report = await find_nat(observer)

    assert report.kind is kind
    assert report.seen_as == (FIRST, 7_000)


async def test_server_with_one_address_tells_only_that_there_is_one() -> None:
    with natted(lambda *_: 7_000, has_other=False) as observer:
        assert (await find_nat(observer)).kind is NatKind.SOME


async def test_own_address_seen_is_no_nat_and_silence_is_unknown() -> None:
    with natted(None) as observer:
        assert (await find_nat(observer)).kind is NatKind.NONE
    assert (await find_nat(observer)).kind is NatKind.UNKNOWN
