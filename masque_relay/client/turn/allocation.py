"""Owns one allocation at a TURN server, as its client: one channel to one peer (RFC 8656)."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress

from masque_relay.client.errors import ClientError, RelayTimeout, RelayUnreachable, TunnelRefused
from masque_relay.client.turn.server import TurnLogin
from masque_relay.client.turn.wire import TurnWire
from masque_relay.contract.address import Endpoint
from masque_relay.stun.channel_data import (
    CHANNEL_HEADER_BYTES,
    encode_channel_head,
    is_channel_data,
)
from masque_relay.stun.codepoints import (
    PROTOCOL_UDP,
    AddressFamily,
    Attribute,
    ErrorCode,
    MessageClass,
    Method,
    PasswordAlgorithm,
)
from masque_relay.stun.integrity import append_integrity, is_signed_by, long_term_key
from masque_relay.stun.message import StunMessage, decode_message, encode_message
from masque_relay.stun.nonce_cookie import has_password_algorithms_bit
from masque_relay.stun.values import (
    CHANNEL_MIN,
    decode_address,
    decode_error,
    decode_u32,
    decode_xor_address,
    encode_algorithms,
    encode_xor_address,
    family_of,
)
from masque_relay.wire.errors import WireError

CHANNEL = CHANNEL_MIN
WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Between the copies of one request (RFC 8489 section 6.2.1), and all together its deadline."""
PERMISSION_S = 240.0
"""A permission lives five minutes (RFC 8656 section 9), a channel ten; binding renews both."""
GOODBYE_S = 1.0
MAX_CHALLENGES = 3
"""One for the first nonce, one for a stale nonce, and one more before it is a loop."""

_HINTS: dict[int, str] = {
    ErrorCode.UNAUTHENTICATED: "check user name and credential; time-limited ones expire",
    ErrorCode.FORBIDDEN: "its policy must let this user reach the relay's address by bind-udp",
}

OnDatagrams = Callable[[Sequence[bytes]], None]
"""Takes what the peer sent, in order."""


class TryAlternate(Exception):  # noqa: N818 (what the server says)
    """The server sends us to another one (RFC 8489 section 10)."""

    def __init__(self, server: Endpoint) -> None:
        super().__init__(str(server))
        self.server = server


class _Signer:
    """The long-term credential as one server wants it (RFC 8489 section 9.2.3)."""

    def __init__(self, login: TurnLogin) -> None:
        self._login = login
        self._realm = b""
        self._nonce = b""
        self._algorithms: list[tuple[int, bytes]] = []
        self.key: bytes | None = None

    @property
    def uses_sha256(self) -> bool:
        """Whether messages are signed with SHA-256."""
        return bool(self._algorithms)

    def learn(self, challenge: StunMessage) -> bool:
        """Take a realm and a nonce; False where the challenge has none."""
        nonce, realm = challenge.get(Attribute.NONCE), challenge.get(Attribute.REALM)
        if nonce is None or (realm is None and self.key is None):
            return False
        offered = challenge.get(Attribute.PASSWORD_ALGORITHMS)
        if has_password_algorithms_bit(nonce) and offered is None:
            return False  # somebody on the way took them out: section 9.2.5
        self._nonce = nonce
        self._realm = self._realm if realm is None else realm
        algorithm = PasswordAlgorithm.MD5
        self._algorithms = []
        sha256 = encode_algorithms((PasswordAlgorithm.SHA256,))
        if offered is not None and sha256 in _in_fours(offered):
            algorithm = PasswordAlgorithm.SHA256
            self._algorithms = [
                (Attribute.PASSWORD_ALGORITHMS, offered),
                (Attribute.PASSWORD_ALGORITHM, sha256),
            ]
        self.key = long_term_key(
            self._login.username,
            self._realm.decode("utf-8", "replace"),
            self._login.password,
            algorithm,
        )
        return True

    def sign(
        self, method: Method, transaction_id: bytes, attributes: Sequence[tuple[int, bytes]]
    ) -> bytes:
        """Return a request, signed once there is a key."""
        if self.key is None:
            return encode_message(method, MessageClass.REQUEST, transaction_id, attributes)
        listed = [
            *attributes,
            (int(Attribute.USERNAME), self._login.username.encode()),
            (int(Attribute.REALM), self._realm),
            (int(Attribute.NONCE), self._nonce),
            *self._algorithms,
        ]
        request = encode_message(method, MessageClass.REQUEST, transaction_id, listed)
        return append_integrity(request, self.key, sha256=self.uses_sha256)


class TurnAllocation:
    """Asks a server for a relayed address and sends datagrams to one peer from there.

    ::

        allocation = TurnAllocation(login, on_datagrams)
        allocation.attach(wire)          # whose messages go to allocation.received
        await allocation.open(peer)
        allocation.send_datagrams(payloads)
        await allocation.keep()          # until it fails
    """

    def __init__(self, login: TurnLogin, on_datagrams: OnDatagrams) -> None:
        """Make an allocation that is not there yet."""
        self._signer = _Signer(login)
        self._on_datagrams = on_datagrams
        self._wire: TurnWire | None = None
        self._answers: dict[bytes, asyncio.Future[StunMessage]] = {}
        self._lifetime_s = 0
        self._peer: Endpoint | None = None

    def attach(self, wire: TurnWire) -> None:
        """Use a connection to the server."""
        self._wire = wire

    async def open(self, peer: Endpoint) -> Endpoint:
        """Allocate, and bind the channel to a peer; return the relayed address.

        Raises:
            TunnelRefused: the server says no; its error code is the status.
            RelayTimeout: the server does not answer.
            RelayUnreachable: what it answers makes no sense.
            TryAlternate: it names another server.
        """
        wanted = [(int(Attribute.REQUESTED_TRANSPORT), bytes((PROTOCOL_UDP, 0, 0, 0)))]
        family = family_of(peer.address)
        if family is not AddressFamily.IPV4:
            value = bytes((family, 0, 0, 0))
            wanted.append((int(Attribute.REQUESTED_ADDRESS_FAMILY), value))
        answer = await self._request(Method.ALLOCATE, wanted)
        try:
            relayed = decode_xor_address(
                answer.get(Attribute.XOR_RELAYED_ADDRESS) or b"", answer.transaction_id
            )
            self._lifetime_s = decode_u32(
                answer.get(Attribute.LIFETIME) or b"", section="RFC 8656 section 18.2"
            )
        except WireError as error:
            raise RelayUnreachable(f"the TURN server's answer is malformed: {error}") from error
        self._peer = peer
        await self._bind()
        return relayed

    async def keep(self) -> None:
        """Renew allocation and channel for as long as the server goes along.

        Raises:
            ClientError: it does not any more.
        """
        while True:
            await asyncio.sleep(min(PERMISSION_S, max(1.0, self._lifetime_s / 2)))
            answer = await self._request(Method.REFRESH)
            with suppress(WireError):
                self._lifetime_s = decode_u32(
                    answer.get(Attribute.LIFETIME) or b"", section="RFC 8656 section 18.2"
                )
            await self._bind()

    async def close(self) -> None:
        """Give the allocation back, if the server hears it; then close the connection."""
        if self._wire is None:
            return
        try:
            if self._lifetime_s:
                self._lifetime_s = 0
                async with asyncio.timeout(GOODBYE_S):
                    await self._request(Method.REFRESH, [(int(Attribute.LIFETIME), bytes(4))])
        except (TimeoutError, ClientError, TryAlternate):
            pass  # it expires by itself
        finally:
            self._wire.close()

    def send_datagrams(self, payloads: Sequence[bytes]) -> int:
        """Send to the peer; return how many were taken. Never blocks and never raises."""
        if self._wire is None or self._peer is None:
            return 0
        return self._wire.send(
            [encode_channel_head(CHANNEL, len(payload)) + payload for payload in payloads]
        )

    def received(self, messages: Sequence[bytes]) -> None:
        """Take what the server sent: STUN messages and ChannelData."""
        head = CHANNEL.to_bytes(2, "big")
        datagrams: list[bytes] = []
        for message in messages:
            if message[:2] == head:
                length = int.from_bytes(message[2:CHANNEL_HEADER_BYTES], "big")
                if len(message) >= CHANNEL_HEADER_BYTES + length:
                    datagrams.append(message[CHANNEL_HEADER_BYTES : CHANNEL_HEADER_BYTES + length])
            elif message and not is_channel_data(message[0]):
                self._answered(message)
        if datagrams:
            self._on_datagrams(datagrams)

    def lost(self) -> None:
        """The connection to the server is over: nobody need wait for an answer."""
        for answered in self._answers.values():
            if not answered.done():
                answered.set_exception(RelayUnreachable("the TURN server closed the connection"))

    # -- requests --------------------------------------------------------------------------------

    async def _bind(self) -> None:
        """Bind the channel, which permits the peer as well (RFC 8656 section 12)."""
        if self._peer is None:
            raise RuntimeError("no peer to bind a channel to")
        number = CHANNEL.to_bytes(2, "big") + bytes(2)
        await self._request(
            Method.CHANNEL_BIND, [(int(Attribute.CHANNEL_NUMBER), number)], peer=self._peer
        )

    async def _request(
        self,
        method: Method,
        attributes: Sequence[tuple[int, bytes]] = (),
        *,
        peer: Endpoint | None = None,
    ) -> StunMessage:
        """Return the success response to a request, with as many signatures as it takes."""
        for _ in range(MAX_CHALLENGES):
            transaction_id = secrets.token_bytes(12)
            listed = list(attributes)
            if peer is not None:
                value = encode_xor_address(peer, transaction_id)
                listed.append((int(Attribute.XOR_PEER_ADDRESS), value))
            was_signed = self._signer.key is not None
            answer = await self._exchange(self._signer.sign(method, transaction_id, listed))
            if answer.message_class is MessageClass.SUCCESS:
                return answer
            code = _error_of(answer)
            if code == ErrorCode.TRY_ALTERNATE:
                raise TryAlternate(_alternate_of(answer))
            is_challenge = code == ErrorCode.STALE_NONCE or (
                code == ErrorCode.UNAUTHENTICATED and not was_signed
            )
            if not is_challenge or not self._signer.learn(answer):
                raise _refused(code)
        raise _refused(ErrorCode.STALE_NONCE)

    async def _exchange(self, request: bytes) -> StunMessage:
        """Send a request, again where nothing came, and return what answers it."""
        if self._wire is None:
            raise RuntimeError("no connection to send on")
        transaction_id = request[8:20]
        answered: asyncio.Future[StunMessage] = asyncio.get_running_loop().create_future()
        self._answers[transaction_id] = answered
        try:
            for wait_s in (sum(WAITS_S),) if self._wire.is_reliable else WAITS_S:
                self._wire.send([request])
                done, _ = await asyncio.wait([answered], timeout=wait_s)
                if done:
                    return answered.result()
        finally:
            del self._answers[transaction_id]
            answered.cancel()
        raise RelayTimeout(
            f"the TURN server did not answer within {sum(WAITS_S):g} s",
            hint="check the URI in the file of --turn, and that the network lets it through",
        )

    def _answered(self, data: bytes) -> None:
        try:
            message = decode_message(data)
        except WireError:
            return
        answered = self._answers.get(message.transaction_id)
        if answered is None or answered.done():
            return
        if message.message_class in {MessageClass.SUCCESS, MessageClass.ERROR}:
            # RFC 8489 section 9.2.5: an answer that is not signed as it must be never came. Errors
            # about the signature itself have none.
            key = self._signer.key
            is_signed = key is not None and is_signed_by(message, key)
            if message.message_class is MessageClass.ERROR or key is None or is_signed:
                answered.set_result(message)


def _in_fours(value: bytes) -> list[bytes]:
    return [value[at : at + 4] for at in range(0, len(value), 4)]


def _error_of(answer: StunMessage) -> int:
    try:
        return decode_error(answer.get(Attribute.ERROR_CODE) or b"")
    except WireError as error:
        raise RelayUnreachable(f"the TURN server's answer is malformed: {error}") from error


def _alternate_of(answer: StunMessage) -> Endpoint:
    try:
        return decode_address(answer.get(Attribute.ALTERNATE_SERVER) or b"")
    except WireError as error:
        raise RelayUnreachable(f"the TURN server's answer is malformed: {error}") from error


def _refused(code: int) -> TunnelRefused:
    reasons = {int(known): known.reason for known in ErrorCode}
    message = f"the TURN server refuses: {code} {reasons.get(code, 'for a reason of its own')}"
    return TunnelRefused(code, message, hint=_HINTS.get(code))
