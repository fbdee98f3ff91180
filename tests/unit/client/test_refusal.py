"""Owns the tests of what a refusal means to a person."""

import pytest

from masque_relay.client.address import make_target
from masque_relay.client.errors import TunnelRefused
from masque_relay.client.refusal import Headers, next_hop_of, refusal_from, status_of

TARGET = make_target("dns.example", 53)


def refusal(
    status: int, *fields: tuple[bytes, bytes], credential_sent: bool = True
) -> TunnelRefused:
    headers: Headers = [(b":status", str(status).encode()), *fields]
    return refusal_from(status, headers, TARGET, credential_sent=credential_sent)


class TestProxyStatus:
    """RFC 9209 section 2."""

    def test_error_details_rcode_and_next_hop_are_taken_over(self) -> None:
        value = (
            b'ghostwire; error=dns_error; rcode="NXDOMAIN"; next-hop="192.0.2.1:53";'
            b' details="no such name [42]"'
        )
        refused = refusal(502, (b"proxy-status", value))
        assert refused.status == 502
        assert refused.error == "dns_error"
        assert refused.rcode == "NXDOMAIN"
        assert refused.next_hop == "192.0.2.1:53"
        assert refused.details == "no such name [42]"
        assert str(refused) == (
            "the relay refused dns.example:53: 502 dns_error (NXDOMAIN): no such name [42]"
        )
        assert "name" in refused.hint

    def test_the_member_with_an_error_speaks_for_a_chain(self) -> None:
        refused = refusal(
            504, (b"proxy-status", b"inner; error=connection_timeout"), (b"proxy-status", b"outer")
        )
        assert refused.error == "connection_timeout"

    def test_a_broken_field_is_ignored(self) -> None:
        for value in (b"(((", b"\xff", b""):
            refused = refusal(403, (b"proxy-status", value))
            assert refused.error is None
            assert refused.hint

    def test_a_2xx_may_name_the_next_hop(self) -> None:
        said = [(b":status", b"200"), (b"proxy-status", b'g; next-hop="192.0.2.7:53"')]
        assert next_hop_of(said) == "192.0.2.7:53"
        assert next_hop_of([(b":status", b"200")]) is None

    def test_what_a_peer_says_cannot_flood_or_drive_the_terminal(self) -> None:
        refused = refusal(403, (b"proxy-status", b'g; error=x; details="' + b"a" * 5_000 + b'"'))
        assert len(str(refused)) < 500
        assert str(refused).isprintable()


class TestHints:
    def test_401_without_a_credential_says_which_options_give_one(self) -> None:
        refused = refusal(401, credential_sent=False)
        assert "--token-file" in refused.hint

    @pytest.mark.parametrize("status", [401, 407])
    def test_401_with_a_credential_says_that_it_was_not_accepted(self, status: int) -> None:
        value = (b"proxy-status", b"ghostwire; error=http_request_denied")
        refused = refusal(status, value, credential_sent=True)
        assert "ghostctl token inspect" in refused.hint

    def test_a_policy_denial_names_the_command_that_explains_it(self) -> None:
        refused = refusal(403, (b"proxy-status", b"ghostwire; error=http_request_denied"))
        assert "ghostctl policy explain" in refused.hint

    def test_a_prohibited_address_is_told_apart(self) -> None:
        refused = refusal(403, (b"proxy-status", b"ghostwire; error=destination_ip_prohibited"))
        assert "private" in refused.hint

    @pytest.mark.parametrize("status", [400, 404, 405, 421, 429, 501, 502, 503, 504])
    def test_every_usual_status_has_a_hint(self, status: int) -> None:
        assert refusal(status).hint

    def test_a_relay_without_this_kind_of_tunnel_is_no_wrong_request(self) -> None:
        refused = refusal(501, (b"proxy-status", b"ghostwire; error=http_request_error"))
        assert "switched off" in refused.hint

    def test_retry_after_is_taken_over(self) -> None:
        assert refusal(429, (b"retry-after", b"7")).retry_after_s == 7
        assert (
            refusal(429, (b"retry-after", b"Mon, 01 Jan 2029 00:00:00 GMT")).retry_after_s is None
        )


def test_status_is_three_digits_or_nothing() -> None:
    assert status_of([(b":status", b"200")]) == 200
    assert status_of([(b":status", b"2000")]) is None
    assert status_of([(b":status", b"abc")]) is None
    assert status_of([]) is None
