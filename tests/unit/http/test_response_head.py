"""Response heads (RFC 9114 section 4.2)."""

import pytest

from masque_relay.contract.counters import HttpCounters
from masque_relay.http.response_head import (
    count_status,
    encode_early_hint,
    encode_fields,
    encode_response_head,
)


@pytest.mark.clause("RFC 9114", "4.2", "MUST", "send field names in lower case")
def test_names_become_lower_case_and_values_lose_padding() -> None:
    assert encode_fields([(b"Content-Type", b" text/plain ")]) == [(b"content-type", b"text/plain")]


@pytest.mark.clause("RFC 9114", "4.2", "MUST NOT", "send connection-specific fields")
@pytest.mark.parametrize("name", [b"Connection", b"transfer-encoding", b"Keep-Alive", b"upgrade"])
def test_connection_specific_fields_are_left_out(name: bytes) -> None:
    assert encode_fields([(name, b"x"), (b"a", b"b")]) == [(b"a", b"b")]


@pytest.mark.clause("RFC 9114", "10.3", "MUST NOT", "send values that would split a message")
@pytest.mark.parametrize(
    "field", [(b"a b", b"x"), (b"", b"x"), (b"a", b"x\r\ny: z"), (b"a", b"\0")]
)
def test_response_splitting_is_refused(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="forbidden bytes"):
        encode_fields([field])


@pytest.mark.parametrize("status", [99, 101, 600])
def test_impossible_status_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_response_head(status, [])


@pytest.mark.clause("RFC 9114", "4.3.2", "MUST", "send :status with every response")
def test_status_comes_first() -> None:
    assert encode_response_head(204, [(b"a", b"b")]) == [(b":status", b"204"), (b"a", b"b")]


def test_early_hint_is_made_of_links() -> None:
    assert encode_early_hint([b"</a.css>; rel=preload"]) == [(b"link", b"</a.css>; rel=preload")]


@pytest.mark.parametrize("status", [103, 200, 302, 404, 503])
def test_each_class_has_its_counter(status: int) -> None:
    counters = HttpCounters()

    count_status(counters, status)

    assert getattr(counters, f"responses_{status // 100}xx") == 1
