"""Who may begin a connection."""

import pytest

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.admission import Admission, RateBound, Verdict, source_key
from masque_relay.quic.limits import QuicLimits, RetryMode

NEVER = RetryMode.NEVER


def admission(counters: QuicCounters | None = None, **limits: object) -> Admission:
    return Admission(QuicLimits(**limits), counters or QuicCounters())  # type: ignore[arg-type]  # any field


def fill(subject: Admission, count: int, *, host: str = "192.0.2.1") -> None:
    for _ in range(count):
        subject.opened(source_key(host))


class TestSourceKey:
    def test_ipv4_counts_by_address_and_ipv6_by_subnet(self) -> None:
        assert source_key("192.0.2.1") != source_key("192.0.2.2")
        assert source_key("2001:db8::1") == source_key("2001:db8::ffff:2")
        assert source_key("2001:db8::1") != source_key("2001:db8:0:1::1")

    def test_scope_of_a_link_local_address_does_not_matter(self) -> None:
        assert source_key("fe80::1%eth0") == source_key("fe80::1")


class TestRateBound:
    def test_it_gives_one_second_worth_at_once_and_then_the_rate(self) -> None:
        bound = RateBound(3)
        assert [bound.take(0.0) for _ in range(4)] == [True, True, True, False]
        assert bound.spent(0.2)
        assert bound.take(0.5)
        assert not bound.take(0.5)
        assert [bound.take(100.0) for _ in range(4)] == [True, True, True, False]


class TestCaps:
    def test_cap_on_all_connections_refuses_and_counts(self) -> None:
        counters = QuicCounters()
        subject = admission(counters, max_connections=2, retry_mode=NEVER)
        fill(subject, 2)
        verdict = subject.judge(source_key("192.0.2.9"), 0.0, address_validated=True)
        assert verdict is Verdict.REFUSE
        assert counters.refused_total == 1

    def test_cap_on_half_open_connections_ends_with_their_handshakes(self) -> None:
        counters = QuicCounters()
        subject = admission(counters, max_half_open=2, retry_mode=NEVER)
        fill(subject, 2)
        key = source_key("192.0.2.9")
        assert subject.judge(key, 0.0, address_validated=True) is Verdict.REFUSE
        assert counters.refused_half_open == 1
        subject.established()
        assert subject.judge(key, 0.0, address_validated=True) is Verdict.ADMIT

    def test_cap_per_source_leaves_other_sources_alone(self) -> None:
        counters = QuicCounters()
        subject = admission(counters, max_connections_per_source=2, retry_mode=NEVER)
        fill(subject, 2)
        assert subject.judge(source_key("192.0.2.1"), 0.0, address_validated=True) is Verdict.REFUSE
        assert subject.judge(source_key("192.0.2.2"), 0.0, address_validated=True) is Verdict.ADMIT
        assert counters.refused_per_source == 1

    def test_closed_connections_give_their_places_back(self) -> None:
        counters = QuicCounters()
        subject = admission(
            counters, max_connections_per_source=1, max_half_open=1, max_connections=1
        )
        key = source_key("192.0.2.1")
        fill(subject, 1)
        assert (counters.connections_open, counters.connections_half_open) == (1, 1)
        subject.closed(key, half_open=True)
        assert (counters.connections_open, counters.connections_half_open) == (0, 0)
        assert subject.judge(key, 0.0, address_validated=False) is Verdict.ADMIT

    def test_draining_refuses_everybody(self) -> None:
        subject = admission()
        subject.draining = True
        key = source_key("192.0.2.1")
        assert subject.judge(key, 0.0, address_validated=True) is Verdict.REFUSE

    def test_replaced_limits_apply_to_the_next_connection(self) -> None:
        subject = admission(max_connections=1, retry_mode=NEVER)
        fill(subject, 1)
        key = source_key("192.0.2.9")
        assert subject.judge(key, 0.0, address_validated=False) is Verdict.REFUSE
        subject.replace_limits(QuicLimits(max_connections=2, retry_mode=NEVER))
        assert subject.judge(key, 0.0, address_validated=False) is Verdict.ADMIT


class TestRetry:
    @pytest.mark.parametrize(
        ("mode", "verdict"), [(RetryMode.NEVER, Verdict.ADMIT), (RetryMode.ALWAYS, Verdict.RETRY)]
    )
    def test_fixed_modes_do_not_look_at_the_load(self, mode: RetryMode, verdict: Verdict) -> None:
        subject = admission(retry_mode=mode)
        key = source_key("192.0.2.1")
        assert subject.judge(key, 0.0, address_validated=False) is verdict
        assert subject.judge(key, 0.0, address_validated=True) is Verdict.ADMIT

    def test_adaptive_mode_asks_for_proof_while_many_handshakes_are_unfinished(self) -> None:
        subject = admission(retry_half_open_count=2)
        key = source_key("192.0.2.9")
        fill(subject, 1)
        assert subject.judge(key, 0.0, address_validated=False) is Verdict.ADMIT
        fill(subject, 1)
        assert subject.judge(key, 0.0, address_validated=False) is Verdict.RETRY
        assert subject.judge(key, 0.0, address_validated=True) is Verdict.ADMIT
        subject.established()
        assert subject.judge(key, 0.0, address_validated=False) is Verdict.ADMIT

    def test_adaptive_mode_asks_for_proof_beyond_the_handshake_rate(self) -> None:
        subject = admission(retry_handshakes_per_s=2)
        key = source_key("192.0.2.9")
        verdicts = [subject.judge(key, 0.0, address_validated=False) for _ in range(3)]
        assert verdicts == [Verdict.ADMIT, Verdict.ADMIT, Verdict.RETRY]
        assert subject.judge(key, 1.0, address_validated=False) is Verdict.ADMIT

    def test_spoofed_source_at_its_cap_is_asked_for_proof_first(self) -> None:
        counters = QuicCounters()
        subject = admission(counters, max_connections_per_source=1, retry_mode=RetryMode.ALWAYS)
        fill(subject, 1)
        key = source_key("192.0.2.1")
        assert subject.judge(key, 0.0, address_validated=False) is Verdict.RETRY
        assert subject.judge(key, 0.0, address_validated=True) is Verdict.REFUSE
        assert counters.refused_per_source == 1
