"""client/bench/echo.py: what is answered, how often, and where a port is taken."""

from ipaddress import IPv4Address

import pytest

from masque_relay.client.bench.echo import Echo, serving_echo
from masque_relay.client.bench.probe import MAGIC, NONCE_BYTES, Probes, answer_to
from masque_relay.client.errors import ListenFailed
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import DatagramSocket, ReceivedBatch
from tests.support.client_fakes import FakeSocket
from tests.support.http_fakes import FakeClock

LISTEN = Endpoint(address=IPv4Address("127.0.0.1"), port=9_000)
PROBES = Probes(64, b"n" * NONCE_BYTES)


def test_questions_are_answered_and_everything_else_is_ignored() -> None:
    echo = Echo(clock=FakeClock())
    question = PROBES.question(1)

    found = echo.answers([question, b"", b"hello" * 20, MAGIC, question])

    assert found == [answer_to(question)] * 2
    assert (echo.answered_count, echo.ignored_count, echo.capped_count) == (2, 3, 0)


def test_two_echoes_that_are_pointed_at_each_other_fall_silent() -> None:
    one, other = Echo(clock=FakeClock()), Echo(clock=FakeClock())

    assert other.answers(one.answers([PROBES.question(1)])) == []


def test_cap_holds_over_all_askers() -> None:
    clock = FakeClock()
    echo = Echo(clock=clock, max_answers_per_s=20)
    questions = [PROBES.question(number) for number in range(10)]

    assert len(echo.answers(questions)) == 2  # a tenth of a second's worth at once
    assert echo.capped_count == 8
    clock.now_s += 0.0625
    assert len(echo.answers(questions)) == 1


def test_cap_of_one_answers_one_a_second() -> None:
    clock = FakeClock()
    echo = Echo(clock=clock, max_answers_per_s=1)

    assert [len(echo.answers([PROBES.question(number)])) for number in range(2)] == [1, 0]
    clock.now_s += 1
    assert len(echo.answers([PROBES.question(2)])) == 1


def test_what_is_ignored_does_not_use_up_the_cap() -> None:
    echo = Echo(clock=FakeClock(), max_answers_per_s=1)

    assert len(echo.answers([b"noise", b"noise", PROBES.question(1)])) == 1


def test_answers_go_to_whoever_asked() -> None:
    asker, other = ("192.0.2.1", 5), ("192.0.2.2", 6)
    socket = FakeSocket(
        LISTEN,
        waiting=[
            ReceivedBatch([PROBES.question(1)], asker),
            ReceivedBatch([PROBES.question(2), b"noise"], other),
        ],
    )

    Echo(clock=FakeClock()).serve(socket)

    assert socket.sent == [
        (answer_to(PROBES.question(1)), asker),
        (answer_to(PROBES.question(2)), other),
    ]


async def test_port_that_is_taken_is_said_with_a_hint() -> None:
    def taken(endpoint: Endpoint) -> DatagramSocket:
        raise FlowError(FlowFault.RESOURCES, f"bind {endpoint}: in use")

    with (
        pytest.raises(ListenFailed, match=r"127\.0\.0\.1:9000.*in use") as caught,
        serving_echo(LISTEN, socket_factory=taken),
    ):
        pytest.fail("it serves on a port that it does not have")

    assert caught.value.hint is not None
