"""Dispatch, strangers, ends: what becomes of each message."""

import pytest

from fallbacks.turn.path import PathKind
from masque_relay.contract.verdict import EndReason
from masque_relay.control.auth.turn import bearer_key
from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from masque_relay.stun.message import append_fingerprint, decode_message, encode_message
from tests.support.turn_client import Reply
from tests.support.turn_rig import PEER, TurnRig, error_name
from tests.unit.fallbacks.turn.conftest import MakeRig

BINDING = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12))


def test_a_binding_request_tells_the_client_its_address(rig: TurnRig) -> None:
    client = rig.client()
    reply = client.exchange(BINDING)
    assert reply.address(Attribute.XOR_MAPPED_ADDRESS) == client.path.client
    assert rig.counters.binding_requests == 1


def test_a_fingerprint_is_answered_with_a_fingerprint(rig: TurnRig) -> None:
    reply = rig.client().exchange(append_fingerprint(BINDING))
    assert reply.message.has_fingerprint


def test_an_unknown_attribute_that_must_be_understood_is_named(rig: TurnRig) -> None:
    data = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [(0x7F01, b"")])
    reply = rig.client().exchange(data)
    assert error_name(reply) == "UNKNOWN_ATTRIBUTE"
    assert reply[Attribute.UNKNOWN_ATTRIBUTES] == b"\x7f\x01"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(20),
        encode_message(0x0FF, MessageClass.REQUEST, bytes(12)),
        encode_message(Method.BINDING, MessageClass.SUCCESS, bytes(12)),
        encode_message(Method.BINDING, MessageClass.ERROR, bytes(12)),
        encode_message(Method.DATA, MessageClass.REQUEST, bytes(12)),
    ],
    ids=["empty", "one byte", "no cookie", "unknown method", "success", "error", "data"],
)
def test_what_is_no_request_of_ours_is_dropped_silently(rig: TurnRig, data: bytes) -> None:
    assert rig.client().deliver(data) == []
    assert rig.counters.malformed == 1


@pytest.mark.parametrize("method", [Method.SEND, Method.BINDING, Method.CONNECTION_ATTEMPT])
def test_indications_of_strangers_are_dropped_silently(rig: TurnRig, method: Method) -> None:
    data = encode_message(method, MessageClass.INDICATION, bytes(12))
    assert rig.client().deliver(data) == []


def test_requests_are_counted_by_kind_and_errors_too(rig: TurnRig) -> None:
    client = rig.client()
    client.allocate()
    client.permit(PEER)
    client.permit()
    assert rig.counters.allocate_requests == 2
    assert rig.counters.other_requests == 2
    assert rig.counters.errors == 1


def test_channel_data_of_a_stranger_is_dropped_and_counted(rig: TurnRig) -> None:
    rig.client().send_channel(0x4000, b"x")
    assert rig.counters.no_channel == 1


class TestBudget:
    def test_strangers_of_one_source_are_answered_within_a_budget(self, make_rig: MakeRig) -> None:
        rig = make_rig()
        burst = rig.services.settings.limits.replies_burst_per_source
        client = rig.client()
        answers = sum(len(client.deliver(BINDING)) for _ in range(burst + 50))
        assert answers == burst
        assert rig.counters.over_budget == 50
        assert not rig.session.wants(client.path.client.address.packed, BINDING)
        assert rig.session.wants(client.path.client.address.packed, bytes(200))

    def test_a_flood_of_bogus_allocates_does_not_touch_a_real_allocation(
        self, rig: TurnRig
    ) -> None:
        client = rig.client()
        client.allocate()
        client.bind_channel(0x4000, PEER)
        bogus = encode_message(
            Method.ALLOCATE, MessageClass.REQUEST, bytes(12), [(0x0019, bytes((17, 0, 0, 0)))]
        )
        for index in range(2000):
            path = rig.path(address=f"192.0.2.{index % 250}", port=1024 + index)
            rig.session.on_message(path, bogus)
        client.send_channel(0x4000, b"still here")
        assert rig.relay_sockets[0].sent[-1][0] == [b"still here"]
        assert len(rig.session.allocations) == 1

    def test_wrong_keys_use_up_the_budget_too(self, rig: TurnRig) -> None:
        client = rig.client()
        client.challenge()
        client.credentials.password = "guess"
        burst = rig.services.settings.limits.replies_burst_per_source
        for _ in range(burst + 20):
            client.deliver(client.build(Method.ALLOCATE))
        assert rig.counters.over_budget >= 20
        decisions = rig.bench.audit.of("decision")
        assert len(decisions) < burst + 1

    def test_requests_beyond_those_that_may_wait_are_dropped(self, rig: TurnRig) -> None:
        client = rig.client()
        client.challenge()
        rig.takes_requests = False
        assert client.deliver(client.build(Method.ALLOCATE)) == []
        assert rig.counters.over_pending == 1


class TestWithoutAllocation:
    @pytest.mark.parametrize("method", [Method.REFRESH, Method.CREATE_PERMISSION, Method.CONNECT])
    def test_a_request_without_an_allocation_is_a_mismatch_and_signed(
        self, rig: TurnRig, method: Method
    ) -> None:
        reply = rig.client().request(method)
        assert error_name(reply) == "ALLOCATION_MISMATCH"
        assert reply.message.integrity_at is not None

    def test_with_a_wrong_key_it_is_a_challenge(self, rig: TurnRig) -> None:
        client = rig.client()
        client.credentials.password = "wrong"
        assert error_name(client.request(Method.REFRESH)) == "UNAUTHENTICATED"


class TestOwner:
    def test_another_user_on_the_same_path_has_wrong_credentials(self, rig: TurnRig) -> None:
        client = rig.client()
        client.allocate()
        other = rig.client("bob", path=client.path)
        assert error_name(other.refresh()) == "WRONG_CREDENTIALS"

    def test_a_wrong_key_on_an_allocation_is_challenged(self, rig: TurnRig) -> None:
        client = rig.client()
        client.allocate()
        forged = client.build(Method.REFRESH, [(Attribute.LIFETIME, bytes(4))], key=b"forged")
        reply = only_reply(client.deliver(forged))
        assert error_name(reply) == "UNAUTHENTICATED"
        assert client.path.allocation is not None


class TestEnds:
    def test_silence_ends_an_allocation(self, rig: TurnRig) -> None:
        client = rig.client()
        client.allocate()
        rig.advance(599)
        assert len(rig.session.allocations) == 1
        rig.advance(2)
        assert rig.session.allocations == set()
        assert rig.relay_sockets[0].is_closed
        assert rig.readers == {}
        assert rig.counters.allocations_open == 0
        assert not client.path.is_kept
        assert rig.bench.audit.of("tunnel_end")[0]["reason"] == EndReason.IDLE.value

    @pytest.mark.parametrize("how", ["revoke", "kick"])
    def test_the_gate_ends_it_at_once(self, rig: TurnRig, how: str) -> None:
        client = rig.client()
        client.allocate()
        lease_id = client.allocation.lease.lease_id
        if how == "revoke":
            assert rig.bench.gate.revoke(subject="alice", token_id=None) == 1
        else:
            assert rig.bench.gate.kick(lease_id)
        assert rig.relay_sockets[0].is_closed
        assert rig.bench.gate.tunnel_count == 0
        expected = "UNAUTHENTICATED" if how == "revoke" else "ALLOCATION_MISMATCH"
        assert error_name(client.refresh()) == expected

    def test_a_credential_that_expires_takes_its_allocation_along(self, rig: TurnRig) -> None:
        client = rig.client()
        client.allocate()
        client.refresh(3600)
        rig.advance(3601)
        assert rig.session.allocations == set()

    def test_a_lost_connection_ends_it(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        client.allocate()
        rig.session.path_lost(client.path)
        assert rig.session.allocations == set()
        reason = rig.bench.audit.of("tunnel_end")[0]["reason"]
        assert reason == EndReason.CONNECTION_LOST.value

    def test_what_the_gate_ends_closes_the_connection(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TLS))
        client.allocate()
        rig.bench.gate.kick(client.allocation.lease.lease_id)
        assert client.path.is_closed

    def test_the_end_of_all_frees_reservations_too(self, rig: TurnRig) -> None:
        rig.client().allocate([(Attribute.EVEN_PORT, b"\x80")])
        rig.session.end_all(EndReason.DRAINED)
        assert [one.is_closed for one in rig.relay_sockets] == [True, True]
        assert rig.bench.gate.tunnel_count == 0


class TestAccessTokens:
    def test_a_mesh_token_is_good_through_tls(self, rig: TurnRig) -> None:
        token = rig.bench.token("alice")
        client = rig.client(path=rig.path(kind=PathKind.TLS))
        client.credentials.username = "any"
        client.credentials.key = bearer_key(token)
        client.credentials.more = [(Attribute.ACCESS_TOKEN, token.encode())]
        client.allocate()
        assert client.allocation.lease.subject == "alice"
        assert client.permit(PEER).ok
        client.credentials.more = []
        assert client.permit(PEER).ok  # only some clients repeat the token
        fresh = rig.bench.token("alice", lifetime_s=7200)
        client.credentials.key = bearer_key(fresh)
        client.credentials.more = [(Attribute.ACCESS_TOKEN, fresh.encode())]
        assert client.refresh().ok
        stranger = rig.bench.token("bob")
        client.credentials.key = bearer_key(stranger)
        client.credentials.more = [(Attribute.ACCESS_TOKEN, stranger.encode())]
        assert error_name(client.refresh()) == "WRONG_CREDENTIALS"

    def test_it_is_not_where_everybody_can_read_it(self, rig: TurnRig) -> None:
        token = rig.bench.token("alice")
        client = rig.client()
        client.credentials.key = bearer_key(token)
        client.credentials.more = [(Attribute.ACCESS_TOKEN, token.encode())]
        assert error_name(client.try_allocate()) == "UNAUTHENTICATED"


def only_reply(answers: list[bytes]) -> Reply:
    assert len(answers) == 1
    return Reply(decode_message(answers[0]))
