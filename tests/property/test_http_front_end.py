"""Whatever a peer sends: heads are accepted or refused as documented, connections never crash."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.connect_udp import ConnectUdpServices, connect_udp_kind
from masque_relay.http.limits import HttpLimits
from masque_relay.http.request_head import parse_request_head
from masque_relay.http.routes import build_app
from masque_relay.quic.application import Headers
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import Scope, WireError
from tests.support.http_fakes import (
    CONNECT_UDP_HEAD,
    GET_HEAD,
    FakeClock,
    FakeDataplane,
    FakeGate,
    head_with,
    settle,
)
from tests.support.http_rig import Rig, serving

NAMES = [
    b":method", b":scheme", b":authority", b":path", b":protocol", b":status",
    b"host", b"te", b"content-length", b"capsule-protocol", b"connection", b"x",
]  # fmt: skip
VALUES = [
    b"CONNECT", b"GET", b"https", b"relay.example", b"relay.example:443", b"[::1]", b"/", b"*",
    b"connect-udp", b"?1", b"0", b"trailers", b"",
]  # fmt: skip
fields = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=20))
heads = st.lists(fields, max_size=8) | st.lists(
    st.sampled_from([*CONNECT_UDP_HEAD, *GET_HEAD]), unique=True, max_size=9
)


@given(heads, st.booleans())
def test_head_is_accepted_or_refused_as_a_stream_error(head: Headers, end_stream: bool) -> None:
    try:
        accepted = parse_request_head(head, end_stream=end_stream)
    except WireError as error:
        if error.scope is Scope.STREAM:
            return
        raise
    assert accepted.authority
    assert dict(accepted.fields)[b"host"] == accepted.authority.encode()
    assert (accepted.form is None) == (accepted.method != "CONNECT")
    assert accepted.protocol is None or accepted.method == "CONNECT"


stream_ids = st.sampled_from(range(0, 40, 4))
steps = st.one_of(
    st.tuples(
        st.just("head"),
        stream_ids,
        st.sampled_from([CONNECT_UDP_HEAD, GET_HEAD, head_with(CONNECT_UDP_HEAD, path=None)])
        | heads,
        st.booleans(),
    ),
    st.tuples(
        st.just("data"),
        stream_ids,
        st.binary(max_size=40)
        | st.builds(encode_capsule, st.integers(0, 70), st.binary(max_size=20)),
        st.booleans(),
    ),
    st.tuples(
        st.just("datagrams"),
        stream_ids,
        st.lists(st.binary(max_size=5), min_size=1, max_size=4),
        st.just(False),
    ),
    st.tuples(
        st.sampled_from(["reset", "malformed", "writable", "settle", "lease", "target"]),
        stream_ids,
        st.just(b""),
        st.booleans(),
    ),
)


def apply(rig: Rig, gate: FakeGate, dataplane: FakeDataplane, step: tuple[str, int, object, bool]):  # type: ignore[no-untyped-def]  # noqa: ANN201  (a dispatch)
    kind, stream_id, content, flag = step
    peer = rig.peer
    lease_ends = [EndReason.KICKED, EndReason.LIFETIME]
    actions: dict[str, Callable[[], object]] = {
        "head": lambda: peer.headers_received(stream_id, content, end_stream=flag),  # type: ignore[arg-type]  # by strategy
        "data": lambda: peer.data_received(stream_id, content, end_stream=flag),  # type: ignore[arg-type]  # by strategy
        "datagrams": lambda: peer.datagrams_received(stream_id, content),  # type: ignore[arg-type]  # by strategy
        "reset": lambda: peer.stream_reset_received(stream_id, 0x10C),
        "malformed": lambda: peer.malformed_received(stream_id, "x"),
        "writable": peer.streams_writable,
        "settle": lambda: None,
        "lease": lambda: [lease.end(lease_ends[flag]) for lease in gate.leases[-1:]],
        "target": lambda: [flow.sink.on_batch([b"x", bytes(2_000)]) for flow in dataplane.flows],
    }
    actions[kind]()


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=25), st.booleans())
def test_connection_survives_any_order_of_events(
    events: list[tuple[str, int, object, bool]], prohibited: bool
) -> None:
    async def run() -> None:
        gate, dataplane = FakeGate(), FakeDataplane()
        gate.limits = TunnelLimits(idle_timeout_s=1_000)
        if prohibited:
            denial = Denial(reason=DenyReason.ADDRESS_PROHIBITED, detail="")
            gate.prohibited[ip_address("192.0.2.7")] = denial
        limits = HttpLimits()
        services = ConnectUdpServices(
            gate=gate,
            dataplane=dataplane,
            clock=FakeClock(),
            counters=TunnelCounters(),
            limits=limits,
            proxy_name="ghostwire",
        )
        app = build_app([connect_udp_kind(services)], gate=gate, proxy_name="ghostwire")
        async with serving(app, limits) as rig:
            for event in events:
                apply(rig, gate, dataplane, event)
                if event[0] == "settle":
                    await settle()
            rig.peer.connection_lost(0x100, "")
            await settle()

            assert rig.front_end.request_count == 0
            assert rig.counters.application_errors == 0
            assert all(len(lease.released) == 1 for lease in gate.leases)
            assert all(lease.released[0][0] is not EndReason.BUG for lease in gate.leases)
            assert all(flow.is_closed for flow in dataplane.flows)

    asyncio.run(run())
