"""Owns the benchmark's UDP echo: what it answers, how often, and the socket that it serves.

Whoever can send with a forged source address can make an echo send to somebody else. So it answers
nothing but questions of the benchmark, never with more bytes than it got, never an answer, and as
often as it was told at most.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from masque_relay.client.bench.probe import answer_to
from masque_relay.client.clock import SystemClock
from masque_relay.client.errors import ListenFailed
from masque_relay.client.sockets import bind_client_udp
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import Clock, DatagramSocket, DatagramSocketFactory
from masque_relay.http.rate import EventRate

_RECEIVE_COUNT = 256
"""Datagrams per turn of the loop."""


class Echo:
    """What to answer.

    Attributes:
        answered_count: questions that were answered.
        ignored_count: datagrams that are no question of the benchmark.
        capped_count: questions beyond the cap, not answered.
    """

    def __init__(self, *, clock: Clock, max_answers_per_s: int | None = None) -> None:
        """Answer.

        Args:
            clock: time.
            max_answers_per_s: over all askers; a tenth of it may come at once. None: no cap.
        """
        self.answered_count = 0
        self.ignored_count = 0
        self.capped_count = 0
        self._cap = (
            None
            if max_answers_per_s is None
            else EventRate(
                rate_per_s=max_answers_per_s,
                burst_count=max(1, max_answers_per_s // 10),
                clock=clock,
            )
        )

    def answers(self, datagrams: Sequence[bytes]) -> list[bytes]:
        """Return the answers to those datagrams that get one."""
        found: list[bytes] = []
        for datagram in datagrams:
            answer = answer_to(datagram)
            if answer is None:
                self.ignored_count += 1
            elif self._cap is not None and not self._cap.allow():
                self.capped_count += 1
            else:
                found.append(answer)
        self.answered_count += len(found)
        return found

    def serve(self, socket: DatagramSocket) -> None:
        """Answer what waits on a socket now; what the kernel does not take is lost."""
        for batch in socket.receive_batches(_RECEIVE_COUNT):
            socket.send_batch(self.answers(batch.payloads), batch.source)


@contextmanager
def serving_echo(
    listen: Endpoint,
    *,
    max_answers_per_s: int | None = None,
    clock: Clock | None = None,
    socket_factory: DatagramSocketFactory = bind_client_udp,
) -> Generator[tuple[Endpoint, Echo]]:
    """Answer on a UDP port while the block runs; yield where, and the echo with its counts.

    Raises:
        ListenFailed: the port is taken, or its address is not ours.
    """
    try:
        socket = socket_factory(listen)
    except FlowError as error:
        raise ListenFailed(
            f"cannot listen on {listen}: {error.detail}",
            hint="choose another port, or end what uses it",
        ) from error
    echo = Echo(clock=clock or SystemClock(), max_answers_per_s=max_answers_per_s)

    loop = asyncio.get_running_loop()
    loop.add_reader(socket.fileno(), echo.serve, socket)
    try:
        yield socket.local, echo
    finally:
        loop.remove_reader(socket.fileno())
        socket.close()
