"""The long-term mechanism: challenges, and what is made of the answers."""

import pytest

from fallbacks.turn.authentication import OFFERED_ALGORITHMS
from masque_relay.stun.codepoints import Attribute, ErrorCode, Method
from tests.support.turn_rig import REALM, TurnRig, error_name
from tests.unit.fallbacks.turn.conftest import MakeRig


def test_a_stranger_is_challenged_and_nothing_is_remembered(rig: TurnRig) -> None:
    reply = rig.client().challenge()
    assert error_name(reply) == "UNAUTHENTICATED"
    assert reply[Attribute.REALM].decode() == REALM
    assert reply[Attribute.PASSWORD_ALGORITHMS] == OFFERED_ALGORITHMS
    assert reply.message.integrity_at is None
    assert rig.session.allocations == set()
    assert rig.relay_sockets == []
    assert rig.bench.audit.records == []


@pytest.mark.parametrize("sha256", [False, True])
@pytest.mark.parametrize("anonymous", [False, True])
def test_both_digests_count(rig: TurnRig, sha256: bool, anonymous: bool) -> None:
    client = rig.client(sha256=sha256, anonymous=anonymous)
    reply = client.try_allocate()
    # Time-limited names are found by their HMAC, which their hash does not give away.
    assert reply.ok is not anonymous


def test_a_wrong_password_is_challenged_again(rig: TurnRig) -> None:
    client = rig.client()
    client.credentials.password = "wrong"
    assert error_name(client.try_allocate()) == "UNAUTHENTICATED"
    assert rig.counters.challenges == 2


@pytest.mark.parametrize(
    "missing", [Attribute.USERNAME, Attribute.REALM, Attribute.NONCE], ids=lambda a: a.name
)
def test_a_signed_request_without_name_realm_or_nonce_is_bad(
    rig: TurnRig, missing: Attribute
) -> None:
    client = rig.client()
    client.challenge()
    kept = [pair for pair in client.credentials.attributes() if pair[0] != missing]
    client.credentials.attributes = lambda: kept  # type: ignore[method-assign]  # this one only
    assert error_name(client.exchange(client.build(Method.ALLOCATE))) == "BAD_REQUEST"


def test_a_stale_nonce_brings_a_new_one(rig: TurnRig) -> None:
    client = rig.client()
    client.allocate()
    rig.advance(590)
    assert client.refresh().ok
    rig.advance(30)
    reply = client.refresh()
    assert error_name(reply) == "STALE_NONCE"
    client.credentials.learn(reply)
    assert client.refresh().ok


def test_a_nonce_of_another_client_is_stale(rig: TurnRig) -> None:
    one, other = rig.client(), rig.client(path=rig.path(port=40_001))
    one.challenge()
    other.credentials.realm, other.credentials.nonce = REALM, one.credentials.nonce
    assert error_name(other.try_allocate()) == "STALE_NONCE"


@pytest.mark.parametrize(
    "change",
    [
        {Attribute.PASSWORD_ALGORITHMS: None},
        {Attribute.PASSWORD_ALGORITHM: None},
        {Attribute.PASSWORD_ALGORITHMS: OFFERED_ALGORITHMS[:4]},
        {Attribute.PASSWORD_ALGORITHM: b"\0\3\0\0"},
        {Attribute.PASSWORD_ALGORITHM: b"\0\1"},
    ],
    ids=["no list", "no choice", "shorter list", "unknown", "short"],
)
def test_a_downgrade_of_password_algorithms_is_refused(
    rig: TurnRig, change: dict[int, bytes | None]
) -> None:
    client = rig.client(sha256=True)
    client.challenge()
    changed = [(kind, change.get(kind, value)) for kind, value in client.credentials.attributes()]
    kept = [(kind, value) for kind, value in changed if value is not None]
    client.credentials.attributes = lambda: kept  # type: ignore[method-assign]  # this one only
    assert error_name(client.exchange(client.build(Method.ALLOCATE))) == "BAD_REQUEST"


def test_another_realm_is_told_ours(rig: TurnRig) -> None:
    client = rig.client()
    client.challenge()
    client.credentials.realm = "elsewhere"
    reply = client.exchange(client.build(Method.ALLOCATE))
    assert error_name(reply) == "UNAUTHENTICATED"
    assert reply[Attribute.REALM].decode() == REALM


@pytest.mark.parametrize("name", [b"\xff\xfe", b"x" * 5000, b"", b"1700003600:\x00alice"], ids=repr)
def test_a_name_that_is_none_is_refused(rig: TurnRig, name: bytes) -> None:
    client = rig.client()
    client.challenge()
    pairs = [
        (kind, name if kind == Attribute.USERNAME else value)
        for kind, value in client.credentials.attributes()
    ]
    client.credentials.attributes = lambda: pairs  # type: ignore[method-assign]  # this one only
    reply = client.exchange(client.build(Method.ALLOCATE))
    assert error_name(reply) in {"BAD_REQUEST", "UNAUTHENTICATED"}


def test_the_answer_has_the_kind_of_integrity_that_the_request_had(rig: TurnRig) -> None:
    plain, better = rig.client(), rig.client(path=rig.path(port=40_001), sha256=True)
    assert plain.try_allocate().message.integrity_at is not None
    reply = better.try_allocate()
    assert reply.message.integrity_sha256_at is not None
    assert reply.message.integrity_at is None


def test_third_party_authorization_is_offered_where_it_is_configured(make_rig: MakeRig) -> None:
    rig = make_rig(server_name="relay.example")
    reply = rig.client().challenge()
    assert reply[Attribute.THIRD_PARTY_AUTHORIZATION] == b"relay.example"


def test_an_error_after_a_good_key_is_signed(rig: TurnRig) -> None:
    reply = rig.client().try_allocate(transport=bytes((99, 0, 0, 0)))
    assert reply.error == ErrorCode.UNSUPPORTED_TRANSPORT_PROTOCOL
    assert reply.message.integrity_at is not None
