"""RFC 9110 section 7.6.3 and RFC 8586: who passed a request on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.via import (
    MAX_VIA_BYTES,
    chain_fields,
    is_pseudonym,
    loop_names,
    via_names,
)


def test_hops_come_in_order_over_all_lines() -> None:
    headers = [
        (b"via", b"1.0 fred, HTTP/1.1 p.example.net:8080 (Apache/1.1)"),
        (b"x", b"y"),
        (b"via", b"3 gw-00ff"),
    ]
    assert via_names(headers) == ["fred", "p.example.net:8080", "gw-00ff"]


def test_no_via_is_no_hop() -> None:
    assert via_names([(b"x", b"1.1 a")]) == []


def test_members_that_cannot_be_read_count_as_hops() -> None:
    assert via_names([(b"via", b"nonsense, 2 a, ,")]) == ["", "a"]


def test_fields_beyond_the_bound_are_not_read() -> None:
    assert via_names([(b"via", b"1.1 a," * MAX_VIA_BYTES)]) is None


def test_cdn_loop_names_lose_their_parameters() -> None:
    assert loop_names([(b"cdn-loop", b"a; x=1, b.example"), (b"cdn-loop", b"c")]) == {
        "a",
        "b.example",
        "c",
    }


@pytest.mark.clause("RFC 9110", "7.6.3", "MUST", "add ourselves to via behind what came")
def test_we_are_added_behind_what_came() -> None:
    came = [(b"via", b"1.1 first"), (b"via", b"2 second"), (b"cdn-loop", b"first")]
    assert chain_fields(came, "gw-1", http_version="3") == [
        (b"via", b"1.1 first, 2 second, 3 gw-1"),
        (b"cdn-loop", b"first, gw-1"),
    ]


def test_what_we_add_is_what_we_find() -> None:
    fields = chain_fields([], "gw-1", http_version="1.1")
    assert via_names(fields) == ["gw-1"]
    assert loop_names(fields) == {"gw-1"}
    assert is_pseudonym("gw-1")
    assert not is_pseudonym("gw 1, evil")


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_are_counted_or_refused(values: list[bytes]) -> None:
    names = via_names([(b"via", value) for value in values])
    assert names is None or len(names) <= sum(value.count(b",") + 1 for value in values)
