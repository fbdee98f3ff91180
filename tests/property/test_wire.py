"""Tests of masque_relay.wire by property: what is written is read, and nothing crashes a parser."""

import string
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.authority import parse_authority
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE
from masque_relay.wire.datagram import encode_quarter_stream_id, split_http_datagram
from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host, parse_port
from masque_relay.wire.proxy_status import encode_proxy_status, parse_proxy_status
from masque_relay.wire.structured import parse_item, parse_list, serialize_string
from masque_relay.wire.uri_template import UriTemplate
from masque_relay.wire.varint import MAX_VARINT, decode_varint, encode_varint, peek_varint

varints = st.integers(min_value=0, max_value=MAX_VARINT)
known_types = st.sampled_from([0, 1, 0x11, 2**40])
KNOWN = frozenset([0, 1, 0x11, 2**40])
printable = st.text(alphabet=[chr(code) for code in range(0x20, 0x7F)])
label = st.from_regex(r"[a-z_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
template = UriTemplate.parse(DEFAULT_TEMPLATE)


@given(varints, st.binary())
def test_a_varint_survives_the_wire(value: int, rest: bytes) -> None:
    encoded = encode_varint(value)
    assert decode_varint(encoded + rest) == (value, len(encoded))
    assert all(peek_varint(encoded[:end]) is None for end in range(len(encoded)))


@given(st.binary(), st.integers(min_value=0, max_value=20))
def test_peeking_and_decoding_a_varint_agree(data: bytes, offset: int) -> None:
    found = peek_varint(data, offset)
    if found is None:
        with pytest.raises(WireError):
            decode_varint(data, offset)
    else:
        assert decode_varint(data, offset) == found


@given(
    st.lists(st.tuples(st.one_of(known_types, varints), st.binary(max_size=200)), max_size=12),
    st.lists(st.integers(min_value=0, max_value=60), max_size=60),
)
def test_capsules_survive_any_cutting_and_unknown_ones_vanish(
    capsules: list[tuple[int, bytes]], steps: list[int]
) -> None:
    stream = b"".join(encode_capsule(*capsule) for capsule in capsules)
    decoder = CapsuleDecoder(max_capsule_bytes=200, known_types=KNOWN)
    received: list[Capsule] = []
    for step in steps:
        received += decoder.feed(stream[:step])
        stream = stream[step:]
    received += decoder.feed(stream)
    decoder.finish()
    assert received == [Capsule(*capsule) for capsule in capsules if capsule[0] in KNOWN]
    assert decoder.skipped_count == len(capsules) - len(received)


@given(st.integers(min_value=0, max_value=2**60 - 1), st.binary())
def test_a_datagram_survives_the_wire(quarter_stream_id: int, payload: bytes) -> None:
    stream_id = quarter_stream_id * 4
    assert split_http_datagram(encode_quarter_stream_id(stream_id) + payload) == (
        stream_id,
        payload,
    )


@given(st.ip_addresses())
def test_every_address_is_a_host_and_mapped_ones_are_unwrapped(address: object) -> None:
    expected = getattr(address, "ipv4_mapped", None) or address
    assert parse_host(str(address)) == expected


@given(st.ip_addresses(v=4))
def test_no_spelling_of_ipv4_as_one_number_passes(address: IPv4Address) -> None:
    for text in (str(int(address)), hex(int(address)), f"0{int(address):o}"):
        with pytest.raises(WireError):
            parse_host(text)


@given(st.lists(label, min_size=1, max_size=5))
def test_a_name_is_its_own_normal_form(labels: list[str]) -> None:
    name = ".".join(labels)
    assert parse_host(name.upper() + ".") == name
    assert parse_authority(f"{name}:53", default_port=443) == (name, 53)


@given(st.text(alphabet=string.printable + "\u00e9%\uff11"))
def test_what_passes_as_a_host_is_lower_case_and_harmless(text: str) -> None:
    try:
        host = str(parse_host(text))
    except WireError:
        return
    assert set(host) <= set(string.ascii_lowercase + string.digits + "-_.:")
    assert parse_host(host) == parse_host(text)


@given(st.text())
def test_a_port_is_digits_in_range_or_refused(text: str) -> None:
    try:
        port = parse_port(text)
    except WireError:
        return
    assert text.lstrip("0") == str(port)
    assert 1 <= port <= 65_535


@given(st.text().filter(lambda text: all(ord(c) >= 0x20 and c != "\x7f" for c in text)), printable)
def test_variables_survive_expansion_and_matching(host: str, port: str) -> None:
    variables = {"target_host": host, "target_port": port}
    assert template.match(template.expand(variables).encode("ascii")) == variables


@given(st.binary())
def test_any_path_matches_or_not_or_is_refused(path: bytes) -> None:
    for raw_path in (path, b"/.well-known/masque/udp/" + path + b"/53/"):
        try:
            found = template.match(raw_path)
        except WireError:
            continue
        assert found is None or set(found) == {"target_host", "target_port"}


@given(printable)
def test_a_structured_string_survives_the_wire(text: str) -> None:
    assert parse_item(serialize_string(text)).value == text


@given(st.text(alphabet='?01;=a*" \\,.:@%-\t(\u00e9'))
def test_any_structured_text_is_a_list_or_refused(text: str) -> None:
    try:
        items = parse_list(text)
    except WireError:
        return
    assert bool(items) == bool(text.strip(" "))


@given(st.text())
def test_any_details_fit_a_proxy_status(details: str) -> None:
    (status,) = parse_proxy_status(encode_proxy_status("p", details=details))
    assert status.details is not None
    assert len(status.details) == min(len(details), 512)


@given(st.text())
def test_any_text_is_an_authority_or_refused(text: str) -> None:
    try:
        host, port = parse_authority(text, default_port=443)
    except WireError:
        return
    assert parse_authority(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", default_port=1)
