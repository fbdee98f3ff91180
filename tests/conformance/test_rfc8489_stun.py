"""RFC 8489, one test per MUST that a STUN server with long-term credentials can break."""

import base64
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from fallbacks.turn.authentication import OFFERED_ALGORITHMS
from masque_relay.contract.address import Endpoint
from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from masque_relay.stun.integrity import append_integrity, is_signed_by
from masque_relay.stun.message import append_fingerprint, decode_message, encode_message
from masque_relay.wire.errors import WireError
from tests.support.stun_vectors import SHA256_REQUEST, SHORT_TERM_KEY, VECTORS
from tests.support.turn_rig import REALM, TurnRig, error_name

ID = bytes(range(12))
BINDING = encode_message(Method.BINDING, MessageClass.REQUEST, ID)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[TurnRig]:
    made = TurnRig(tmp_path)
    yield made
    made.close()


@pytest.mark.clause("RFC 8489", "5", "MUST", "zero the two most significant bits, send the cookie")
def test_section_5_header(rig: TurnRig) -> None:
    (answer,) = rig.client().deliver(BINDING)
    assert answer[0] & 0xC0 == 0
    assert answer[4:8] == bytes.fromhex("2112a442")
    assert int.from_bytes(answer[2:4], "big") == len(answer) - 20


@pytest.mark.clause("RFC 8489", "5", "MUST", "pad to a multiple of four bytes")
def test_section_5_lengths_are_multiples_of_four(rig: TurnRig) -> None:
    (answer,) = rig.client().deliver(encode_message(Method.ALLOCATE, MessageClass.REQUEST, ID))
    assert len(answer) % 4 == 0


@pytest.mark.clause("RFC 8489", "6.3", "MUST", "discard what is no STUN message silently")
def test_section_6_3_silence(rig: TurnRig) -> None:
    for data in (b"", BINDING[:-1], b"\xff" + BINDING[1:], BINDING + b"\0\0\0\0"):
        assert rig.client().deliver(data) == []


@pytest.mark.clause("RFC 8489", "6.3.1", "MUST", "420 with every unknown attribute it must know")
def test_section_6_3_1_unknown_attributes(rig: TurnRig) -> None:
    data = encode_message(
        Method.BINDING, MessageClass.REQUEST, ID, [(0x7001, b""), (0x9001, b""), (0x7002, b"")]
    )
    reply = rig.client().exchange(data)
    assert error_name(reply) == "UNKNOWN_ATTRIBUTE"
    assert reply[Attribute.UNKNOWN_ATTRIBUTES] == bytes.fromhex("70017002")


@pytest.mark.clause("RFC 8489", "6.3.1.1", "MUST", "answer a Binding with XOR-MAPPED-ADDRESS")
@pytest.mark.parametrize("text", ["203.0.113.7", "2001:db8::7"])
def test_section_6_3_1_1_the_reflexive_address(rig: TurnRig, text: str) -> None:
    client = rig.client(path=rig.path(address=text))
    reply = client.exchange(BINDING)
    expected = Endpoint(address=ip_address(text), port=40_000)
    assert reply.address(Attribute.XOR_MAPPED_ADDRESS) == expected
    assert reply.message.transaction_id == ID


@pytest.mark.clause("RFC 8489", "6.3.2", "MUST NOT", "answer an indication")
def test_section_6_3_2_indications(rig: TurnRig) -> None:
    data = encode_message(Method.BINDING, MessageClass.INDICATION, ID)
    assert rig.client().deliver(data) == []


@pytest.mark.clause("RFC 8489", "7", "MUST", "check FINGERPRINT where it is, drop a wrong one")
def test_section_7_fingerprint(rig: TurnRig) -> None:
    good = append_fingerprint(BINDING)
    assert rig.client().exchange(good).message.has_fingerprint
    assert rig.client().deliver(good[:-1] + bytes((good[-1] ^ 1,))) == []


class TestLongTermCredentials:
    @pytest.mark.clause("RFC 8489", "9.2.1", "MUST", "begin the nonce with the cookie and its bits")
    def test_section_9_2_1_cookie(self, rig: TurnRig) -> None:
        nonce = rig.client().challenge()[Attribute.NONCE]
        assert nonce.startswith(b"obMatJos2")
        bits = int.from_bytes(base64.b64decode(nonce[9:13]), "big")
        assert bits >> 22 == 0b11  # section 18.1: password algorithms, user name anonymity

    @pytest.mark.clause("RFC 8489", "9.2.4", "MUST", "401 with realm, nonce and algorithms")
    def test_section_9_2_4_no_integrity(self, rig: TurnRig) -> None:
        reply = rig.client().challenge()
        assert error_name(reply) == "UNAUTHENTICATED"
        assert reply[Attribute.REALM].decode() == REALM
        assert reply[Attribute.PASSWORD_ALGORITHMS] == OFFERED_ALGORITHMS
        for absent in (Attribute.USERNAME, Attribute.USERHASH, Attribute.MESSAGE_INTEGRITY):
            assert reply.message.get(absent) is None

    @pytest.mark.clause("RFC 8489", "9.2.4", "MUST", "400 for integrity without name, realm, nonce")
    def test_section_9_2_4_incomplete(self, rig: TurnRig) -> None:
        data = append_integrity(
            encode_message(Method.ALLOCATE, MessageClass.REQUEST, ID), b"key", sha256=False
        )
        assert error_name(rig.client().exchange(data)) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 8489", "9.2.4", "MUST", "MD5 where no algorithm is named")
    def test_section_9_2_4_default_algorithm(self, rig: TurnRig) -> None:
        assert rig.client(sha256=False).try_allocate().ok

    @pytest.mark.clause("RFC 8489", "9.2.4", "MUST", "400 where the algorithms were tampered with")
    def test_section_9_2_4_tampered_algorithms(self, rig: TurnRig) -> None:
        client = rig.client(sha256=True)
        client.challenge()
        client.credentials.algorithms = OFFERED_ALGORITHMS[:4]
        assert error_name(client.exchange(client.build(Method.ALLOCATE))) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 8489", "9.2.4", "MUST", "401 for an unknown user or a wrong key")
    def test_section_9_2_4_wrong_credentials(self, rig: TurnRig) -> None:
        client = rig.client()
        client.credentials.password = "wrong"
        assert error_name(client.try_allocate()) == "UNAUTHENTICATED"
        client.credentials.username = "nobody"
        assert error_name(client.try_allocate()) == "UNAUTHENTICATED"

    @pytest.mark.clause("RFC 8489", "9.2.4", "MUST", "438 with a new nonce for one that is stale")
    def test_section_9_2_4_stale_nonce(self, rig: TurnRig) -> None:
        client = rig.client()
        client.challenge()
        old = client.credentials.nonce
        rig.clock.advance(1000)
        reply = client.exchange(client.build(Method.ALLOCATE))
        assert error_name(reply) == "STALE_NONCE"
        assert reply[Attribute.NONCE] != old
        assert reply[Attribute.REALM].decode() == REALM

    @pytest.mark.clause("RFC 8489", "9.2.4", "MUST", "answer with the integrity of the request")
    def test_section_9_2_4_integrity_of_the_answer(self, rig: TurnRig) -> None:
        for port, sha256 in ((1, False), (2, True)):
            client = rig.client(path=rig.path(port=port), sha256=sha256)
            message = client.try_allocate().message
            assert (message.integrity_sha256_at is not None) == sha256
            assert (message.integrity_at is not None) != sha256
            assert is_signed_by(message, client.credentials.signing_key())

    @pytest.mark.clause("RFC 8489", "14.3", "DEVIATION", "user names of more than 508 bytes count")
    def test_section_14_3_a_bearer_token_is_a_long_user_name(self, rig: TurnRig) -> None:
        from fallbacks.turn.path import PathKind  # noqa: PLC0415

        token = rig.bench.token("alice", groups=["g" * 60] * 10)
        client = rig.client(path=rig.path(kind=PathKind.TLS))
        client.credentials.username = client.credentials.password = token
        assert len(token) > 508
        assert client.try_allocate().ok


@pytest.mark.clause("RFC 8489", "14.5", "MUST", "ignore what follows MESSAGE-INTEGRITY")
def test_section_14_5_behind_the_integrity(rig: TurnRig) -> None:
    client = rig.client()
    client.challenge()
    signed = client.build(Method.ALLOCATE, [(Attribute.REQUESTED_TRANSPORT, b"\x11\0\0\0")])
    longer = signed[:2] + (len(signed) - 12).to_bytes(2, "big") + signed[4:] + b"\x70\1\0\4evil"
    assert client.exchange(longer).ok


@pytest.mark.clause("RFC 8489", "14.6", "MUST", "compute SHA-256 integrity as appendix B.1 does")
def test_section_14_6_the_vector() -> None:
    assert decode_message(SHA256_REQUEST).integrity_sha256_at is not None


@pytest.mark.clause("RFC 8489", "14.7", "MUST", "accept FINGERPRINT as the last attribute only")
def test_section_14_7_fingerprint_is_last() -> None:
    data = append_fingerprint(BINDING)
    longer = data[:2] + (len(data) - 16).to_bytes(2, "big") + data[4:] + b"\x80\x22\0\0"
    with pytest.raises(WireError):
        decode_message(longer)


@pytest.mark.clause("RFC 5769", "2", "MUST", "agree with the test vectors")
@pytest.mark.parametrize("name", list(VECTORS)[:3])
def test_vectors(name: str) -> None:
    assert is_signed_by(decode_message(VECTORS[name]), SHORT_TERM_KEY)
