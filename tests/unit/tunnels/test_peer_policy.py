"""The gate's answers about peers, remembered."""

from ipaddress import ip_address

from masque_relay.contract.address import Endpoint
from masque_relay.contract.request import Method, RelayRequest, Transport
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.tunnels.peer_policy import PeerPolicy, PeerPolicyLimits
from tests.support.http_fakes import FakeClock, FakeGate, FakeLease

GOOD, BAD = ip_address("192.0.2.1"), ip_address("10.0.0.1")


class Bench:
    """A policy before a recording gate."""

    def __init__(self, **limits: float) -> None:
        self.gate, self.clock = FakeGate(), FakeClock()
        self.gate.prohibited[BAD] = Denial(reason=DenyReason.ADDRESS_PROHIBITED, detail="private")
        self.may_ask = self.may_ask_unsolicited = True
        request = RelayRequest(
            request_id="r",
            transport=Transport.HTTP3,
            method=Method.BIND_UDP,
            target=None,
            credentials=(),
            source=Endpoint(address=GOOD, port=1),
        )
        self.policy = PeerPolicy(
            self.gate,
            FakeLease(request),
            clock=self.clock,
            limits=PeerPolicyLimits(**limits),  # type: ignore[arg-type]
            may_ask=lambda: self.may_ask,
            may_ask_unsolicited=lambda: self.may_ask_unsolicited,
        )


def test_each_peer_is_asked_about_once() -> None:
    bench = Bench()
    for _ in range(3):
        assert bench.policy.admits(GOOD, 53) is True
        assert bench.policy.admits(BAD, 53) is False
    assert bench.gate.addresses == [(GOOD, 53), (BAD, 53)]


def test_ports_are_different_peers() -> None:
    bench = Bench()
    bench.policy.admits(GOOD, 53)
    bench.policy.admits(GOOD, 54)
    assert len(bench.gate.addresses) == 2


def test_an_answer_is_asked_for_again_when_it_is_old() -> None:
    bench = Bench(fresh_s=30.0)
    bench.policy.admits(GOOD, 53)
    bench.clock.now_s += 29.0
    bench.policy.admits(GOOD, 53)
    assert len(bench.gate.addresses) == 1
    bench.clock.now_s += 1.0
    bench.policy.admits(GOOD, 53)
    assert len(bench.gate.addresses) == 2


def test_a_reload_ends_every_answer_at_once() -> None:
    bench = Bench()
    assert bench.policy.admits(GOOD, 53) is True
    bench.gate.prohibited[GOOD] = Denial(reason=DenyReason.POLICY, detail="new rule")
    bench.gate.generation += 1
    assert bench.policy.admits(GOOD, 53) is False


def test_too_many_questions_are_no_answer_and_nothing_is_remembered() -> None:
    bench = Bench()
    bench.may_ask = False
    assert bench.policy.admits(GOOD, 53) is None
    assert bench.gate.addresses == []
    bench.may_ask = True
    assert bench.policy.admits(GOOD, 53) is True


def test_an_old_answer_holds_on_while_no_question_may_be_asked() -> None:
    bench = Bench()
    bench.policy.admits(GOOD, 53)
    bench.clock.now_s += 1_000.0
    bench.may_ask = False
    assert bench.policy.admits(GOOD, 53) is True


def test_peers_that_send_first_have_a_budget_of_their_own() -> None:
    bench = Bench()
    bench.may_ask_unsolicited = False
    assert bench.policy.admits(GOOD, 53, unsolicited=True) is None
    assert bench.policy.admits(GOOD, 53) is True


def test_the_oldest_answer_makes_room() -> None:
    bench = Bench(peers=2)
    for port in (1, 2, 3, 1):
        bench.policy.admits(GOOD, port)
    assert bench.gate.addresses == [(GOOD, 1), (GOOD, 2), (GOOD, 3), (GOOD, 1)]
    bench.policy.admits(GOOD, 3)
    assert len(bench.gate.addresses) == 4
