"""The way out of a tunnel: QUIC datagrams or DATAGRAM capsules (RFC 9297)."""

from dataclasses import dataclass, field

import pytest

from masque_relay.contract.counters import HttpCounters
from masque_relay.contract.verdict import EndReason
from masque_relay.http.carrier import HttpCarrier
from masque_relay.http.limits import HttpLimits
from masque_relay.http.services import StreamServices
from masque_relay.wire.capsule import encode_capsule
from tests.support.http_fakes import FakeClock, RecordingH3Transport
from tests.support.http_rig import NO_APPLICATION


@dataclass
class Made:
    """A carrier and everything below it."""

    transport: RecordingH3Transport = field(
        default_factory=lambda: RecordingH3Transport(NO_APPLICATION)
    )
    counters: HttpCounters = field(default_factory=HttpCounters)
    over: list[EndReason | None] = field(default_factory=list)
    to_stop: list[int] = field(default_factory=list)

    def carrier(self, limits: HttpLimits | None = None) -> HttpCarrier:
        services = StreamServices(
            transport=self.transport,
            limits=limits or HttpLimits(),
            counters=self.counters,
            clock=FakeClock(),
            stop_when_sent=self.to_stop.append,
        )
        return HttpCarrier(services, 8, on_over=self.over.append)


class TestForm:
    @pytest.mark.clause("RFC 9297", "3.5", "SHOULD", "use QUIC datagrams where both ends take them")
    def test_quic_datagrams_where_they_were_negotiated(self) -> None:
        made = Made()
        carrier = made.carrier()

        assert carrier.send_datagrams(b"\0", [b"a", b"b"]) == 2
        assert made.transport.datagrams == [(8, b"\0a"), (8, b"\0b")]
        assert carrier.max_payload_bytes == 1_200

    def test_capsules_where_they_were_not(self) -> None:
        made = Made()
        made.transport.datagrams_negotiated = False
        carrier = made.carrier()

        assert carrier.send_datagrams(b"\0", [b"a", b"b"]) == 2
        assert made.transport.data[8] == encode_capsule(0, b"\0a") + encode_capsule(0, b"\0b")
        assert carrier.max_payload_bytes == 65_535

    def test_settings_that_come_late_decide_too(self) -> None:
        made = Made()
        made.transport.datagrams_negotiated = False
        carrier = made.carrier()
        assert carrier.uses_capsules

        made.transport.datagrams_negotiated = True

        assert not carrier.uses_capsules

    def test_client_that_begins_with_capsules_gets_capsules(self) -> None:
        carrier = Made().carrier()

        carrier.datagram_capsule_seen()

        assert carrier.uses_capsules

    def test_quic_datagram_settles_it_for_good(self) -> None:
        carrier = Made().carrier()
        carrier.datagram_capsule_seen()

        carrier.quic_datagram_seen()
        carrier.datagram_capsule_seen()

        assert not carrier.uses_capsules

    def test_datagram_from_a_client_that_takes_none_settles_nothing(self) -> None:
        made = Made()
        made.transport.datagrams_negotiated = False
        carrier = made.carrier()

        carrier.quic_datagram_seen()

        assert carrier.uses_capsules


class TestBounds:
    @pytest.mark.clause("RFC 9298", "6.1", "SHOULD NOT", "turn an oversize datagram into a capsule")
    def test_oversize_datagram_is_a_counted_drop(self) -> None:
        made = Made()
        carrier = made.carrier()

        assert carrier.send_datagrams(b"\0", [bytes(1_200), b"fits"]) == 1
        assert carrier.dropped_datagrams == 1
        assert carrier.sent_datagrams == 1

    def test_capsules_stop_where_the_stream_holds_too_much(self) -> None:
        made = Made()
        made.transport.datagrams_negotiated = False
        carrier = made.carrier(HttpLimits(capsule_backlog_bytes=1_000))
        made.transport.unsent[8] = 900

        assert carrier.send_datagrams(b"\0", [bytes(90), bytes(90), bytes(90)]) == 2
        assert made.counters.capsule_datagrams_dropped == 1
        assert carrier.dropped_datagrams == 1

        made.transport.unsent[8] = 1_000
        assert carrier.send_datagrams(b"\0", [b"x"]) == 0

    def test_bytes_are_counted_with_their_context(self) -> None:
        made = Made()
        carrier = made.carrier()
        carrier.send_datagrams(b"\0", [b"abc", b"de"])
        made.transport.datagrams_negotiated = False
        carrier.send_datagrams(b"\0", [b"f"])

        assert (carrier.sent_datagrams, carrier.sent_bytes) == (3, 9)


class TestEnd:
    def test_finish_ends_the_stream_and_stops_the_peer_later(self) -> None:
        made = Made()
        carrier = made.carrier()

        carrier.finish()
        carrier.finish()

        assert made.transport.finished == {8}
        assert made.to_stop == [8]
        assert made.over == [None]

    @pytest.mark.parametrize(
        ("reason", "code"),
        [(EndReason.REVOKED, 0x10C), (EndReason.TARGET_FAILED, 0x10F), (EndReason.BUG, 0x102)],
    )
    def test_abort_resets_with_the_reasons_code(self, reason: EndReason, code: int) -> None:
        made = Made()
        carrier = made.carrier()

        carrier.abort(reason)
        carrier.abort(EndReason.KICKED)
        carrier.finish()

        assert made.transport.resets == {8: code}
        assert made.over == [reason]
        assert not made.transport.finished

    def test_nothing_is_sent_after_the_end(self) -> None:
        made = Made()
        carrier = made.carrier()
        carrier.stream_over()

        assert carrier.send_datagrams(b"\0", [b"x"]) == 0
        carrier.send_capsule(1, b"x")
        carrier.abort(EndReason.BUG)

        assert not made.transport.datagrams
        assert not made.transport.data
        assert not made.transport.resets
