"""Two ends of bound UDP by property: honest ends never abort and end up with the same contexts."""

from collections import deque
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.context_table import ContextLimits, ContextTable
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_udp_bind import (
    BindCapsule,
    decode_assign,
    decode_peer,
    encode_assign,
    encode_peer,
    encode_public_addresses,
    parse_public_addresses,
    peer_end,
)
from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import MAX_VARINT, encode_varint
from tests.unit.tunnels.test_connect_udp_bind import ONE, Tunnel

PEERS = [encode_peer(ip_address(f"192.0.2.{n}"), 53) for n in range(4)]
ends = st.sampled_from(["client", "proxy"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("assign"), ends, st.sampled_from([None, *PEERS])),
        st.tuples(st.just("close"), ends, st.integers(min_value=0, max_value=5)),
        st.tuples(st.just("deliver"), ends, st.integers(min_value=1, max_value=3)),
    ),
    max_size=60,
)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


class Pair:
    """Two tables and the capsules on their way, each direction in order."""

    def __init__(self, limits: ContextLimits) -> None:
        self.way: dict[str, deque[tuple[int, bytes]]] = {"client": deque(), "proxy": deque()}
        self.ends = {
            "client": ContextTable(
                is_proxy=False,
                limits=limits,
                send=lambda kind, value: self.way["proxy"].append((kind, value)),
                accepts=lambda peer: peer != PEERS[3],
            ),
            "proxy": ContextTable(
                is_proxy=True,
                limits=limits,
                send=lambda kind, value: self.way["client"].append((kind, value)),
                accepts=lambda peer: peer != PEERS[2],
            ),
        }

    def deliver(self, to: str) -> bool:
        if not self.way[to]:
            return False
        self.ends[to].on_capsule(*self.way[to].popleft())
        return True


@given(steps, st.integers(min_value=1, max_value=4))
def test_honest_ends_never_break_the_protocol_and_agree_at_last(
    script: list[tuple[str, str, object]], limit: int
) -> None:
    pair = Pair(ContextLimits(theirs=limit, ours=limit))
    for action, name, value in script:
        end = pair.ends[name]
        if action == "assign":
            end.assign(value if isinstance(value, bytes) else None)
        elif action == "close" and isinstance(value, int):
            for context in list(end.by_id.values())[value : value + 1]:
                end.close(context)
        elif isinstance(value, int):
            for _ in range(value):
                pair.deliver(name)
    while pair.deliver("client") or pair.deliver("proxy"):
        pass
    client, proxy = pair.ends["client"], pair.ends["proxy"]
    opened = {number: context.peer for number, context in client.by_id.items()}
    assert opened == {number: context.peer for number, context in proxy.by_id.items()}
    for end in (client, proxy):
        assert all(context.usable for context in end.by_id.values())
        assert set(end.by_peer.values()) == {c for c in end.by_id.values() if c.peer is not None}


@given(
    st.integers(min_value=1, max_value=MAX_VARINT),
    st.one_of(st.none(), st.tuples(addresses, st.integers(min_value=0, max_value=65_535))),
)
def test_an_assignment_survives_the_wire(context_id: int, peer: tuple[object, int] | None) -> None:
    wire = None if peer is None else encode_peer(*peer)  # type: ignore[arg-type]
    found = decode_assign(encode_assign(context_id, wire))
    assert (found.context_id, found.peer) == (context_id, wire)
    if wire is not None:
        assert decode_peer(wire) == peer
        assert peer_end(wire + b"rest", 0) == len(wire)


@given(
    st.lists(
        st.tuples(addresses, st.integers(min_value=1, max_value=65_535)), min_size=1, max_size=4
    )
)
def test_public_addresses_survive_the_field(found: list[tuple[object, int]]) -> None:
    assert parse_public_addresses(encode_public_addresses(found)) == tuple(found)  # type: ignore[arg-type]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("datagram"), st.binary(max_size=40)),
            st.tuples(st.sampled_from(list(BindCapsule)), st.binary(max_size=24)),
            st.tuples(
                st.just(BindCapsule.COMPRESSION_ASSIGN),
                st.builds(
                    lambda number, peer: encode_varint(number) + peer,
                    st.integers(min_value=1, max_value=30),
                    st.sampled_from([b"\0", *PEERS]),
                ),
            ),
        ),
        max_size=40,
    )
)
def test_whatever_a_client_sends_is_taken_or_refused_and_stays_bounded(
    script: list[tuple[object, bytes]],
) -> None:
    tunnel = Tunnel(listening=False)
    for kind, value in script:
        if kind == "datagram":
            tunnel.session.on_datagrams([value])
            continue
        assert isinstance(kind, int)
        stream = encode_capsule(kind, value)
        decoder = CapsuleDecoder(max_capsule_bytes=100, known_types=set(BindCapsule))
        try:
            for capsule in decoder.feed(stream):
                tunnel.session.on_capsule(capsule.type, capsule.value)
        except WireError:
            tunnel.session.close(EndReason.PROTOCOL_ERROR)
    tunnel.receive(ONE, b"from outside")
    answers = len(tunnel.carrier.capsules)
    assert answers <= len(script)
    assert tunnel.flow.is_closed == (tunnel.session.end_reason is not None)
