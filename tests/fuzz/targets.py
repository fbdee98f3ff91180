"""Owns the fuzz targets: one function per parser of a peer's bytes.

The contract of every target: the input is accepted, or refused with WireError. Any other exception,
and any assertion below that fails, is a finding.
"""

from collections.abc import Callable
from contextlib import suppress

from fallbacks.derp import wire as derp
from fallbacks.derp.info import parse_client_info
from fallbacks.turn.wish import parse_wish
from masque_relay.stun.channel_data import StreamDecoder
from masque_relay.stun.integrity import is_signed_by
from masque_relay.stun.message import decode_message, encode_message
from masque_relay.stun.values import (
    decode_address,
    decode_algorithm,
    decode_channel,
    decode_family,
)
from masque_relay.wire.authority import parse_authority
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_ip import (
    decode_address_assign,
    decode_address_request,
    decode_routes,
    encode_addresses,
    encode_routes,
    parse_scope_protocol,
    parse_scope_target,
)
from masque_relay.wire.connect_ip_dns import (
    decode_dns_assign,
    decode_pref64,
    encode_dns_assign,
    encode_pref64,
)
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE, split_context
from masque_relay.wire.connect_udp_bind import (
    decode_ack,
    decode_assign,
    decode_close,
    decode_peer,
    encode_assign,
    encode_context_id,
    encode_peer,
    encode_public_addresses,
    parse_public_addresses,
)
from masque_relay.wire.datagram import encode_quarter_stream_id, split_http_datagram
from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host, parse_port
from masque_relay.wire.icmp import IcmpError, echo_reply, icmp_error
from masque_relay.wire.ip_packet import (
    decrement_hop_limit,
    internet_checksum,
    is_fragment_tail,
    read_packet,
)
from masque_relay.wire.proxy_status import encode_proxy_status, parse_proxy_status
from masque_relay.wire.structured import parse_boolean, parse_item, parse_list
from masque_relay.wire.uri_template import UriTemplate
from masque_relay.wire.varint import decode_varint, encode_varint

Target = Callable[[bytes], None]

_DEFAULT = UriTemplate.parse(DEFAULT_TEMPLATE)
_QUERY = UriTemplate.parse("/m{?target_host,target_port}")
_MAX_CAPSULE_BYTES = 256


def fuzz_varint(data: bytes) -> None:
    value, end = decode_varint(data)
    assert 1 <= end <= len(data)
    assert decode_varint(encode_varint(value)) == (value, len(encode_varint(value)))


def _decode_capsules(pieces: list[bytes]) -> list[Capsule] | None:
    """Return the capsules, or None if they are refused."""
    decoder = CapsuleDecoder(max_capsule_bytes=_MAX_CAPSULE_BYTES, known_types={0, 1})
    capsules: list[Capsule] = []
    try:
        for piece in pieces:
            capsules += decoder.feed(piece)
            kept = len(decoder._head) + len(decoder._value or b"")
            assert kept <= _MAX_CAPSULE_BYTES + 16
        decoder.finish()
    except WireError:
        return None
    return capsules


def fuzz_bind_capsule(data: bytes) -> None:
    for decode in (decode_ack, decode_close):
        try:
            assert decode_ack(encode_context_id(decode(data))) == decode_ack(data)
        except WireError:
            continue
    assign = decode_assign(data)
    assert decode_assign(encode_assign(assign.context_id, assign.peer)) == assign
    if assign.peer is not None:
        assert encode_peer(*decode_peer(assign.peer)) == assign.peer


def fuzz_ip_capsule(data: bytes) -> None:
    kind, value = data[:1], data[1:]
    if kind == b"\x01":
        entries = decode_address_assign(value)
        assert decode_address_assign(encode_addresses(entries)) == entries
    elif kind == b"\x02":
        entries = decode_address_request(value)
        assert entries
        assert decode_address_request(encode_addresses(entries)) == entries
    elif kind == b"\x03":
        routes = decode_routes(value)
        assert encode_routes(routes) == value
    elif kind == b"\x04":
        configurations = decode_dns_assign(value)
        assert decode_dns_assign(encode_dns_assign(configurations)) == configurations
    else:
        prefixes = decode_pref64(value)
        assert decode_pref64(encode_pref64(prefixes)) == prefixes


def fuzz_ip_packet(data: bytes) -> None:
    facts = read_packet(data)
    if facts is None:
        raise WireError("no packet to forward", section="none")
    version, _, _, _, port, hop_limit = facts
    assert version in {4, 6}
    assert 0 <= port <= 0xFFFF
    shorter = decrement_hop_limit(data)
    assert (shorter is None) == (hop_limit <= 1)
    if shorter is not None:
        assert read_packet(shorter) == (*facts[:5], hop_limit - 1)
        if version == 4:
            head = slice(0, (data[0] & 0xF) * 4)
            before, after = internet_checksum(data[head]), internet_checksum(shorter[head])
            assert (before == 0) <= (after == 0)
    is_fragment_tail(data)
    for made in (icmp_error(IcmpError.TOO_BIG, data, source=1, mtu_bytes=1280), echo_reply(data)):
        if made is not None:
            answer = read_packet(made)
            assert answer is not None
            assert answer[2] == facts[1]


def fuzz_ip_scope(data: bytes) -> None:
    target, _, protocol = data.decode("utf-8", "replace").partition("|")
    found = parse_scope_target(target)
    assert found is None or isinstance(found, str) or found.prefixlen >= 0
    parse_scope_protocol(protocol or "*")


def fuzz_public_addresses(data: bytes) -> None:
    found = parse_public_addresses(data.decode("latin-1"))
    assert parse_public_addresses(encode_public_addresses(found)) == found


def fuzz_capsule(data: bytes) -> None:
    whole = _decode_capsules([data])
    step = 1 + len(data) % 5
    pieces = [data[offset : offset + step] for offset in range(0, len(data), step)]
    assert _decode_capsules(pieces) == whole
    if whole:
        again = b"".join(encode_capsule(capsule.type, capsule.value) for capsule in whole)
        assert _decode_capsules([again]) == whole


def fuzz_datagram(data: bytes) -> None:
    stream_id, payload = split_http_datagram(data)
    assert split_http_datagram(encode_quarter_stream_id(stream_id) + payload) == (
        stream_id,
        payload,
    )
    split_context(payload)


def fuzz_host(data: bytes) -> None:
    host = parse_host(data.decode("utf-8", "replace"))
    assert parse_host(str(host)) == host


def fuzz_port(data: bytes) -> None:
    assert 1 <= parse_port(data.decode("utf-8", "replace")) <= 65_535


def fuzz_authority(data: bytes) -> None:
    host, port = parse_authority(data.decode("latin-1"), default_port=443)
    assert host
    assert 1 <= port <= 65_535


def fuzz_path(data: bytes) -> None:
    for template in (_DEFAULT, _QUERY):
        variables = template.match(data)
        if variables is not None:
            assert template.match(template.expand(variables).encode("ascii")) == variables


def fuzz_template(data: bytes) -> None:
    template = UriTemplate.parse(data.decode("latin-1"))
    values = dict.fromkeys(template.variables, ":/?")
    assert template.match(template.expand_path(values).encode("ascii")) == values


def fuzz_structured(data: bytes) -> None:
    text = data.decode("latin-1")
    parse_boolean(text)
    parse_list(text)
    parse_item(text)


def fuzz_proxy_status(data: bytes) -> None:
    text = data.decode("latin-1")
    (status,) = parse_proxy_status(encode_proxy_status("p", details=text))
    assert status.details is not None
    parse_proxy_status(text)


def fuzz_stun(data: bytes) -> None:
    """STUN messages: what decodes encodes again, and its values decode or are refused."""
    message = decode_message(data)
    again = encode_message(
        message.method, message.message_class, message.transaction_id, message.attributes
    )
    assert decode_message(again).attributes == message.attributes
    assert not is_signed_by(message, b"no key of anybody")
    for _, value in message.attributes:
        for decode in (decode_algorithm, decode_channel, decode_family, decode_address):
            with suppress(WireError):
                decode(value)
    parse_wish(message, may_be_tcp=True)


def fuzz_turn_stream(data: bytes) -> None:
    """STUN and ChannelData on a stream: the same messages however it is cut."""
    whole = StreamDecoder().feed(data)
    decoder, cut = StreamDecoder(), []
    for index in range(len(data)):
        cut += decoder.feed(data[index : index + 1])
    assert cut == whole


def fuzz_derp(data: bytes) -> None:
    """DERP frames: the same however the stream is cut; every body is split or refused."""
    for known in (derp.FROM_CLIENT, derp.FROM_SERVER):
        _fuzz_derp_frames(data, known)


def _fuzz_derp_frames(data: bytes, known: frozenset[derp.FrameType]) -> None:
    whole, cut = derp.FrameDecoder(known=known), derp.FrameDecoder(known=known)
    whole.feed(data)
    frames: list[derp.Frame] = []
    again: list[derp.Frame] = []
    while (frame := whole.take()) is not None:
        frames.append(frame)
    for index in range(len(data)):
        cut.feed(data[index : index + 1])
        while (frame := cut.take()) is not None:
            again.append(frame)
    assert again == frames
    for frame in frames:
        for split in (
            derp.split_client_info,
            derp.split_packet,
            derp.split_forward,
            derp.split_key,
            derp.split_ping,
            derp.split_preferred,
            derp.split_server_key,
            derp.split_peer_gone,
            derp.split_peer_present,
            parse_client_info,
        ):
            with suppress(WireError):
                split(frame.body)


TARGETS: dict[str, Target] = {
    "authority": fuzz_authority,
    "bind_capsule": fuzz_bind_capsule,
    "capsule": fuzz_capsule,
    "datagram": fuzz_datagram,
    "derp": fuzz_derp,
    "host": fuzz_host,
    "path": fuzz_path,
    "port": fuzz_port,
    "proxy_status": fuzz_proxy_status,
    "ip_capsule": fuzz_ip_capsule,
    "ip_packet": fuzz_ip_packet,
    "ip_scope": fuzz_ip_scope,
    "public_addresses": fuzz_public_addresses,
    "structured": fuzz_structured,
    "stun": fuzz_stun,
    "template": fuzz_template,
    "turn_stream": fuzz_turn_stream,
    "varint": fuzz_varint,
}
