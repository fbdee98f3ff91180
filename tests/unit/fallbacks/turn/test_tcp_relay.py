"""TCP relaying (RFC 6062)."""

import pytest

from fallbacks.turn.path import PathKind
from fallbacks.turn.tcp_relay import UNSENT_BYTES
from masque_relay.contract.turn_limits import TurnLimits
from masque_relay.contract.verdict import EndReason
from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from tests.support.turn_client import TCP, Reply
from tests.support.turn_rig import (
    OTHER_PEER,
    PEER,
    POLICY,
    PRIVATE_PEER,
    FakeFlow,
    RigClient,
    TurnRig,
    error_name,
)
from tests.unit.fallbacks.turn.conftest import MakeRig


def tcp_client(rig: TurnRig) -> RigClient:
    made = rig.client(path=rig.path(kind=PathKind.TCP))
    made.allocate(transport=TCP)
    return made


@pytest.fixture
def client(rig: TurnRig) -> RigClient:
    return tcp_client(rig)


def data_connection(rig: TurnRig, client: RigClient) -> RigClient:
    """A second connection of the same client."""
    path = rig.path(port=40_001, kind=PathKind.TCP)
    return rig.client(path=path, credentials=client.credentials)


def bind(rig: TurnRig, client: RigClient, connection_id: bytes) -> RigClient:
    data = data_connection(rig, client)
    reply = data.request(Method.CONNECTION_BIND, [(int(Attribute.CONNECTION_ID), connection_id)])
    assert reply.ok, error_name(reply)
    return data


@pytest.fixture
def joined(rig: TurnRig, client: RigClient) -> tuple[RigClient, FakeFlow]:
    """A data connection that is bound to a peer's."""
    reply = client.request(Method.CONNECT, peers=[PEER])
    data = bind(rig, client, reply[Attribute.CONNECTION_ID])
    return data, rig.tcp_relays[0].flows[0]


def test_connect_and_bind_join_two_connections(
    rig: TurnRig, joined: tuple[RigClient, FakeFlow]
) -> None:
    data, flow = joined
    assert flow.peer == PEER
    assert flow.is_reading
    splice = data.path.splice
    assert splice is not None
    splice.client_bytes(b"GET /")
    assert flow.sent == b"GET /"
    flow.sink.on_bytes(b"200 OK")
    assert data.path.written == b"200 OK"
    assert rig.tunnels.stream_uplink_bytes == 5
    assert rig.tunnels.stream_downlink_bytes == 6
    assert rig.counters.peer_connections == 1


def test_a_peer_that_connects_is_announced_and_waits(rig: TurnRig, client: RigClient) -> None:
    client.permit(PEER)
    client.received()
    rig.tcp_relays[0].peer_connects(PEER)
    (message,) = client.received_messages()
    assert message.method == Method.CONNECTION_ATTEMPT
    assert message.message_class is MessageClass.INDICATION
    assert Reply(message).address(Attribute.XOR_PEER_ADDRESS) == PEER
    flow = rig.tcp_relays[0].flows[0]
    assert not flow.is_reading
    connection_id = message.get(Attribute.CONNECTION_ID)
    assert connection_id is not None
    bind(rig, client, connection_id)
    assert flow.is_reading


def test_a_peer_without_a_permission_is_closed(rig: TurnRig, client: RigClient) -> None:
    rig.tcp_relays[0].peer_connects(PEER)
    assert rig.tcp_relays[0].flows == []
    assert rig.counters.no_permission == 1
    assert client.received_messages()[-1].method == Method.ALLOCATE


class TestConnect:
    def test_a_private_peer_is_forbidden(self, client: RigClient) -> None:
        assert error_name(client.request(Method.CONNECT, peers=[PRIVATE_PEER])) == "FORBIDDEN"

    def test_a_peer_that_refuses_is_447(self, rig: TurnRig, client: RigClient) -> None:
        rig.tcp_relays[0].refuses = True
        reply = client.request(Method.CONNECT, peers=[PEER])
        assert error_name(reply) == "CONNECTION_TIMEOUT_OR_FAILURE"
        rig.tcp_relays[0].refuses = False
        assert client.request(Method.CONNECT, peers=[PEER]).ok

    def test_one_connection_per_peer(self, client: RigClient) -> None:
        assert client.request(Method.CONNECT, peers=[PEER]).ok
        reply = client.request(Method.CONNECT, peers=[PEER])
        assert error_name(reply) == "CONNECTION_ALREADY_EXISTS"

    def test_their_number_is_bounded(self, make_rig: MakeRig) -> None:
        client = tcp_client(make_rig(limits=TurnLimits(tcp_connections_per_allocation=1)))
        assert client.request(Method.CONNECT, peers=[PEER]).ok
        reply = client.request(Method.CONNECT, peers=[OTHER_PEER])
        assert error_name(reply) == "INSUFFICIENT_CAPACITY"

    def test_a_peer_that_answers_after_the_allocation_ended_is_let_go(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        relay, allocation = rig.tcp_relays[0], client.allocation
        relay.while_connecting = lambda: rig.session.end(allocation, EndReason.KICKED)
        reply = client.request(Method.CONNECT, peers=[PEER])
        assert error_name(reply) == "CONNECTION_TIMEOUT_OR_FAILURE"
        assert relay.flows[0].is_closed
        assert not rig.session.tcp._by_id

    def test_a_connection_that_a_reload_forbids_is_closed_the_others_stay(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        assert client.request(Method.CONNECT, peers=[PEER]).ok
        assert client.request(Method.CONNECT, peers=[OTHER_PEER]).ok
        rig.bench.reload(POLICY.replace('targets = ["*:*"]', 'targets = ["8.8.4.4/32:*"]'))
        rig.advance(1)
        assert [flow.is_closed for flow in rig.tcp_relays[0].flows] == [True, False]

    def test_without_a_peer_it_is_bad(self, client: RigClient) -> None:
        assert error_name(client.request(Method.CONNECT)) == "BAD_REQUEST"


class TestConnectionBind:
    def test_an_unknown_number_is_bad(self, rig: TurnRig, client: RigClient) -> None:
        data = data_connection(rig, client)
        number = [(int(Attribute.CONNECTION_ID), b"none")]
        assert error_name(data.request(Method.CONNECTION_BIND, number)) == "BAD_REQUEST"

    def test_it_counts_once(self, rig: TurnRig, client: RigClient) -> None:
        number = client.request(Method.CONNECT, peers=[PEER])[Attribute.CONNECTION_ID]
        bind(rig, client, number)
        again = data_connection(rig, client)
        reply = again.request(Method.CONNECTION_BIND, [(int(Attribute.CONNECTION_ID), number)])
        assert error_name(reply) == "BAD_REQUEST"

    def test_somebody_else_does_not_get_it(self, rig: TurnRig, client: RigClient) -> None:
        number = client.request(Method.CONNECT, peers=[PEER])[Attribute.CONNECTION_ID]
        thief = rig.client("bob", path=rig.path(port=40_002, kind=PathKind.TCP))
        reply = thief.request(Method.CONNECTION_BIND, [(int(Attribute.CONNECTION_ID), number)])
        assert error_name(reply) == "WRONG_CREDENTIALS"
        forged = data_connection(rig, client)
        data = forged.build(
            Method.CONNECTION_BIND, [(int(Attribute.CONNECTION_ID), number)], key=b"forged"
        )
        assert forged.deliver(data)
        assert forged.path.splice is None

    def test_it_must_come_in_time(self, rig: TurnRig, client: RigClient) -> None:
        number = client.request(Method.CONNECT, peers=[PEER])[Attribute.CONNECTION_ID]
        rig.advance(31)
        assert rig.tcp_relays[0].flows[0].is_closed
        late = data_connection(rig, client)
        reply = late.request(Method.CONNECTION_BIND, [(int(Attribute.CONNECTION_ID), number)])
        assert error_name(reply) == "BAD_REQUEST"


class TestBackPressure:
    def test_a_peer_that_does_not_read_stops_the_client(
        self, joined: tuple[RigClient, FakeFlow]
    ) -> None:
        data, flow = joined
        splice = data.path.splice
        assert splice is not None
        flow.unsent_bytes = UNSENT_BYTES
        splice.client_bytes(b"x")
        assert not data.path.is_reading
        flow.sink.on_flow_writable()
        assert not data.path.is_reading
        flow.unsent_bytes = 0
        flow.sink.on_flow_writable()
        assert data.path.is_reading

    def test_a_client_that_does_not_read_stops_the_peer(
        self, joined: tuple[RigClient, FakeFlow]
    ) -> None:
        data, flow = joined
        splice = data.path.splice
        assert splice is not None
        data.path.takes = False
        flow.sink.on_bytes(b"x")
        assert not flow.is_reading
        splice.client_writable()
        assert flow.is_reading

    def test_a_rate_delays_bytes_and_loses_none(self, make_rig: MakeRig) -> None:
        rig = make_rig(policy=POLICY + "limits = { rate_bytes_per_s = 65535 }\n")
        client = tcp_client(rig)
        number = client.request(Method.CONNECT, peers=[PEER])[Attribute.CONNECTION_ID]
        data = bind(rig, client, number)
        flow, splice = rig.tcp_relays[0].flows[0], data.path.splice
        assert splice is not None
        for sink, seen in (
            (splice.client_bytes, lambda: flow.sent),
            (flow.sink.on_bytes, lambda: data.path.written),
        ):
            sink(bytes(60_000))
            sink(b"y" * 60_000)
            assert len(seen()) == 60_000
            rig.clock.advance(1)
            later, rig.later = rig.later, []
            for callback in later:
                callback()
            assert seen()[60_000:] == b"y" * 60_000


class TestEnds:
    @pytest.mark.parametrize("who", ["peer ends", "peer lost", "client ends", "client lost"])
    def test_one_end_closes_the_other(self, joined: tuple[RigClient, FakeFlow], who: str) -> None:
        from masque_relay.contract.flow import FlowError, FlowFault  # noqa: PLC0415

        data, flow = joined
        splice = data.path.splice
        assert splice is not None
        if who == "peer ends":
            flow.sink.on_bytes_end()
        elif who == "peer lost":
            flow.sink.on_flow_lost(FlowError(FlowFault.CONNECTION_TERMINATED, "reset"))
        elif who == "client ends":
            splice.client_end()
        else:
            splice.client_lost()
        assert flow.is_closed
        assert data.path.is_closed
        splice.client_bytes(b"too late")
        assert flow.sent == b""

    def test_the_end_of_the_allocation_closes_all(
        self, rig: TurnRig, client: RigClient, joined: tuple[RigClient, FakeFlow]
    ) -> None:
        data, flow = joined
        client.refresh(0)
        assert flow.is_closed
        assert data.path.is_closed
        assert rig.tcp_relays[0].is_closed
        assert rig.session.tcp._by_id == {}
