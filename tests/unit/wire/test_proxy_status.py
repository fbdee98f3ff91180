"""Tests of masque_relay.wire.proxy_status."""

import pytest

from masque_relay.wire.errors import WireError
from masque_relay.wire.proxy_status import encode_proxy_status, parse_proxy_status


class TestEncoding:
    """RFC 9209 section 2."""

    def test_success_names_the_next_hop(self) -> None:
        assert (
            encode_proxy_status("ghostwire", next_hop="192.0.2.1:53")
            == 'ghostwire; next-hop="192.0.2.1:53"'
        )

    def test_a_failure_names_error_rcode_and_details(self) -> None:
        value = encode_proxy_status(
            "ghostwire", error="dns_error", rcode="NXDOMAIN", details='no such name "x"'
        )
        assert (
            value == 'ghostwire; error=dns_error; rcode="NXDOMAIN"; details="no such name \\"x\\""'
        )

    @pytest.mark.clause("RFC 9209", "2.1.5", "MUST", "write details as a structured string")
    def test_details_become_short_printable_ascii(self) -> None:
        value = encode_proxy_status("ghostwire", details="é\r\nset-cookie: x\x00" + "y" * 5000)
        assert value.startswith('ghostwire; details="???set-cookie: x?yyy')
        assert len(value) < 600

    @pytest.mark.clause(
        "RFC 9209", "2", "MUST", "be a structured list whose member names the relay"
    )
    @pytest.mark.parametrize("arguments", [{"proxy": "a b"}, {"proxy": "a", "error": "x y"}])
    def test_a_name_that_is_no_token_is_a_bug_of_the_caller(
        self, arguments: dict[str, str]
    ) -> None:
        with pytest.raises(ValueError, match="not a token"):
            encode_proxy_status(**arguments)


class TestParsing:
    """RFC 9209 section 2."""

    def test_what_is_written_is_read(self) -> None:
        (status,) = parse_proxy_status(
            encode_proxy_status(
                "ghostwire", error="dns_error", next_hop="a:1", rcode="SERVFAIL", details="why"
            )
        )
        assert status.proxy == "ghostwire"
        assert status.error == "dns_error"
        assert status.next_hop == "a:1"
        assert status.rcode == "SERVFAIL"
        assert status.details == "why"

    def test_several_intermediaries_and_their_own_parameters(self) -> None:
        near, far = parse_proxy_status('"r 1"; received-status=503, cdn; next-hop=b;x-new=@1')
        assert (near.proxy, near.error, near.parameters) == ("r 1", None, {"received-status": 503})
        assert (far.proxy, far.next_hop, far.parameters["x-new"]) == ("cdn", "b", 1)

    def test_parameters_of_the_wrong_type_are_as_good_as_missing(self) -> None:
        (status,) = parse_proxy_status('p; error="dns_error"; rcode=3; details=?1')
        assert (status.error, status.rcode, status.details) == (None, None, None)

    @pytest.mark.clause("RFC 9209", "2", "MUST", "ignore a field that is no structured list")
    @pytest.mark.parametrize("text", ["1", "?1", "p; ERROR=x", ":aa==:", "p,"])
    def test_what_is_no_proxy_status_is_refused(self, text: str) -> None:
        with pytest.raises(WireError):
            parse_proxy_status(text)
