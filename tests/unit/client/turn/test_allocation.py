"""The client's side of an allocation, against answers that the test makes."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest

from masque_relay.client.errors import (
    ClientError,
    RelayTimeout,
    RelayUnreachable,
    TunnelRefused,
)
from masque_relay.client.turn import allocation as allocation_module
from masque_relay.client.turn.allocation import CHANNEL, TryAlternate, TurnAllocation
from masque_relay.client.turn.server import TurnLogin
from masque_relay.contract.address import Endpoint
from masque_relay.stun.channel_data import encode_channel_head
from masque_relay.stun.codepoints import (
    Attribute,
    ErrorCode,
    MessageClass,
    Method,
    PasswordAlgorithm,
)
from masque_relay.stun.integrity import append_integrity, is_signed_by, long_term_key
from masque_relay.stun.message import StunMessage, decode_message, encode_message
from masque_relay.stun.nonce_cookie import PASSWORD_ALGORITHMS, nonce_prefix
from masque_relay.stun.values import (
    encode_address,
    encode_algorithms,
    encode_error,
    encode_xor_address,
)

PEER = Endpoint(address=ip_address("192.0.2.9"), port=443)
RELAYED = Endpoint(address=ip_address("198.51.100.1"), port=50_000)
REALM = b"ghostwire"
BOTH = encode_algorithms((PasswordAlgorithm.MD5, PasswordAlgorithm.SHA256))
MD5_KEY = long_term_key("alice", "ghostwire", "secret")
SHA256_KEY = long_term_key("alice", "ghostwire", "secret", PasswordAlgorithm.SHA256)

Attributes = list[tuple[int, bytes]]
Answer = tuple[MessageClass, Attributes] | None


def error(code: ErrorCode, *more: tuple[int, bytes]) -> Answer:
    return MessageClass.ERROR, [(Attribute.ERROR_CODE, encode_error(code)), *more]


def challenge(nonce: bytes, *more: tuple[int, bytes]) -> Answer:
    realm = (int(Attribute.REALM), REALM)
    return error(ErrorCode.UNAUTHENTICATED, realm, (Attribute.NONCE, nonce), *more)


class Server:
    """A wire to a server that answers as the test says; signed with ``key``."""

    is_reliable = True

    def __init__(self, answer: Callable[[StunMessage], Answer], key: bytes = MD5_KEY) -> None:
        self.allocation = TurnAllocation(TurnLogin(username="alice", password="secret"), self.came)
        self.allocation.attach(self)
        self.requests: list[StunMessage] = []
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.is_closed = False
        self.key = key
        self._answer = answer

    def came(self, payloads: Sequence[bytes]) -> None:
        self.received += payloads

    def send(self, messages: Sequence[bytes]) -> int:
        for message in messages:
            if message[0] >= 0x40:
                self.sent.append(message)
                continue
            request = decode_message(message)
            self.requests.append(request)
            answer = self._answer(request)
            if answer is not None:
                data = encode_message(request.method, answer[0], request.transaction_id, answer[1])
                if answer[0] is MessageClass.SUCCESS:
                    data = append_integrity(data, self.key, sha256=self.key == SHA256_KEY)
                self.allocation.received([data])
        return len(messages)

    def close(self) -> None:
        self.is_closed = True


def willing(request: StunMessage, nonce: bytes = b"n1", *more: tuple[int, bytes]) -> Answer:
    """Challenge who is not signed, and grant the rest."""
    if request.integrity_at is None and request.integrity_sha256_at is None:
        return challenge(nonce, *more)
    if request.method == Method.ALLOCATE:
        relayed = encode_xor_address(RELAYED, request.transaction_id)
        return MessageClass.SUCCESS, [
            (Attribute.XOR_RELAYED_ADDRESS, relayed),
            (Attribute.LIFETIME, (600).to_bytes(4, "big")),
        ]
    return MessageClass.SUCCESS, [(Attribute.LIFETIME, (600).to_bytes(4, "big"))]


async def test_challenge_is_answered_and_the_channel_bound() -> None:
    server = Server(willing)
    assert await server.allocation.open(PEER) == RELAYED
    asked = [Method(request.method) for request in server.requests]
    assert asked == [Method.ALLOCATE, Method.ALLOCATE, Method.CHANNEL_BIND]
    assert all(is_signed_by(request, MD5_KEY) for request in server.requests[1:])
    assert server.allocation.send_datagrams([b"abc", b""]) == 2
    assert server.sent == [b"\x40\0\0\3abc", b"\x40\0\0\0"]


async def test_sha256_is_chosen_where_it_is_offered() -> None:
    nonce = nonce_prefix(PASSWORD_ALGORITHMS) + b"rest"
    offered = (int(Attribute.PASSWORD_ALGORITHMS), BOTH)
    server = Server(lambda request: willing(request, nonce, offered), SHA256_KEY)
    await server.allocation.open(PEER)
    signed = server.requests[-1]
    assert signed.integrity_sha256_at is not None
    assert is_signed_by(signed, SHA256_KEY)
    assert signed.get(Attribute.PASSWORD_ALGORITHMS) == BOTH


async def test_offer_that_was_taken_out_on_the_way_is_not_followed() -> None:
    nonce = nonce_prefix(PASSWORD_ALGORITHMS) + b"rest"
    server = Server(lambda request: willing(request, nonce))
    with pytest.raises(TunnelRefused, match="401"):
        await server.allocation.open(PEER)
    assert len(server.requests) == 1


async def test_stale_nonce_is_replaced() -> None:
    stale = error(ErrorCode.STALE_NONCE, (Attribute.NONCE, b"n2"))
    server = Server(
        lambda request: stale if request.get(Attribute.NONCE) == b"n1" else willing(request)
    )
    await server.allocation.open(PEER)
    assert server.requests[-1].get(Attribute.NONCE) == b"n2"


async def test_nonces_that_are_always_stale_end() -> None:
    server = Server(
        lambda request: (
            willing(request)
            if request.integrity_at is None
            else error(ErrorCode.STALE_NONCE, (Attribute.NONCE, b"n"))
        )
    )
    with pytest.raises(TunnelRefused, match="438"):
        await server.allocation.open(PEER)
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", [401, 403, 486, 508])
async def test_refusal_has_the_servers_code(code: int) -> None:
    server = Server(
        lambda request: willing(request) if request.integrity_at is None else error(ErrorCode(code))
    )
    with pytest.raises(TunnelRefused, match=str(code)) as refused:
        await server.allocation.open(PEER)
    assert refused.value.status == code


async def test_alternate_server_is_told() -> None:
    other = (int(Attribute.ALTERNATE_SERVER), encode_address(RELAYED))
    server = Server(lambda _: error(ErrorCode.TRY_ALTERNATE, other))
    with pytest.raises(TryAlternate) as told:
        await server.allocation.open(PEER)
    assert told.value.server == RELAYED


async def test_success_that_is_signed_with_another_key_never_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allocation_module, "WAITS_S", (0.01, 0.01))
    server = Server(willing, b"another key")
    server.is_reliable = False
    with pytest.raises(RelayTimeout):
        await server.allocation.open(PEER)
    assert len(server.requests) == 3  # the challenged one, and two copies of the signed one


@pytest.mark.parametrize(
    "answer",
    [
        (MessageClass.ERROR, []),
        (MessageClass.ERROR, [(Attribute.ERROR_CODE, encode_error(ErrorCode.TRY_ALTERNATE))]),
    ],
)
async def test_malformed_answer_is_told(answer: Answer) -> None:
    with pytest.raises(RelayUnreachable, match="malformed"):
        await Server(lambda _: answer).allocation.open(PEER)


async def test_success_without_an_address_is_malformed() -> None:
    server = Server(
        lambda request: (
            willing(request) if request.integrity_at is None else (MessageClass.SUCCESS, [])
        )
    )
    with pytest.raises(RelayUnreachable, match="malformed"):
        await server.allocation.open(PEER)


async def test_lost_connection_ends_the_wait() -> None:
    server = Server(lambda _: None)
    asyncio.get_running_loop().call_soon(server.allocation.lost)
    with pytest.raises(RelayUnreachable, match="closed"):
        await server.allocation.open(PEER)


async def test_datagrams_of_our_channel_come_through_and_nothing_else() -> None:
    server = Server(willing)
    server.allocation.received(
        [
            encode_channel_head(CHANNEL, 3) + b"one",
            encode_channel_head(CHANNEL + 1, 3) + b"two",
            encode_channel_head(CHANNEL, 9) + b"short",
            b"",
            b"\0garbage",
            encode_channel_head(CHANNEL, 3) + b"six+padding",
        ]
    )
    assert server.received == [b"one", b"six"]


async def test_allocation_and_channel_are_renewed_until_the_server_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allocation_module, "PERMISSION_S", 0.01)
    refreshes: list[StunMessage] = []

    def answer(request: StunMessage) -> Answer:
        if request.method == Method.REFRESH:
            refreshes.append(request)
            if len(refreshes) > 2:
                return error(ErrorCode.ALLOCATION_MISMATCH)
        return willing(request)

    server = Server(answer)
    await server.allocation.open(PEER)
    with pytest.raises(ClientError, match="437"):
        await server.allocation.keep()
    binds = [request for request in server.requests if request.method == Method.CHANNEL_BIND]
    assert len(binds) == 3


async def test_allocation_is_given_back() -> None:
    server = Server(willing)
    await server.allocation.open(PEER)
    await server.allocation.close()
    assert server.requests[-1].method == Method.REFRESH
    assert server.requests[-1].get(Attribute.LIFETIME) == bytes(4)
    assert server.is_closed
