"""One admitted request: the lease and how it ended."""

from ipaddress import ip_address

from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.request import Method, RelayRequest, Transport
from masque_relay.contract.verdict import EndReason
from masque_relay.http.admission import Admission
from tests.support.http_fakes import FakeLease


def lease() -> FakeLease:
    return FakeLease(
        RelayRequest(
            request_id="r1",
            transport=Transport.HTTP3,
            method=Method.CONNECT_UDP,
            target=Target(host="example.org", port=443),
            credentials=(),
            source=Endpoint(address=ip_address("198.51.100.9"), port=1),
        )
    )


def test_release_carries_the_reason_that_was_set() -> None:
    held = lease()
    admission = Admission(held)
    admission.close(EndReason.IDLE, "quiet")
    admission.release()

    assert held.released == [(EndReason.IDLE, "quiet")]


def test_endpoint_that_says_nothing_is_a_bug() -> None:
    held = lease()
    Admission(held).release()

    assert held.released == [(EndReason.BUG, "")]


def test_end_from_outside_reaches_the_tunnel() -> None:
    held, ends = lease(), list[EndReason]()
    admission = Admission(held)
    admission.on_end(ends.append)
    held.end(EndReason.KICKED)

    assert ends == [EndReason.KICKED]
    assert admission.ended_by_gate is EndReason.KICKED


def test_end_that_came_first_is_told_at_once() -> None:
    held, ends = lease(), list[EndReason]()
    held.end(EndReason.REVOKED)
    Admission(held).on_end(ends.append)

    assert ends == [EndReason.REVOKED]


def test_nobody_is_called_after_the_release() -> None:
    held, ends = lease(), list[EndReason]()
    admission = Admission(held)
    admission.on_end(ends.append)
    admission.release()
    held.end(EndReason.KICKED)

    assert not ends
