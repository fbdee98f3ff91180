"""Owns a small TURN client on blocking sockets, with every message in the test's own hands.

with TurnClient(("127.0.0.1", port), username="u", password="p") as client:
    relayed = client.allocate()
    client.bind_channel(0x4000, peer)
    client.send_channel(0x4000, b"hello")
"""

import secrets
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from masque_relay.contract.address import Endpoint
from masque_relay.stun.channel_data import StreamDecoder, encode_channel_head
from masque_relay.stun.codepoints import Attribute, ErrorCode, MessageClass, Method
from masque_relay.stun.codepoints import PasswordAlgorithm as Algorithm
from masque_relay.stun.integrity import append_integrity, long_term_key, user_hash
from masque_relay.stun.message import (
    StunMessage,
    append_fingerprint,
    decode_message,
    encode_message,
)
from masque_relay.stun.values import decode_error, decode_xor_address, encode_xor_address

WAIT_S = 10.0
UDP = bytes((17, 0, 0, 0))
TCP = bytes((6, 0, 0, 0))

Attributes = Sequence[tuple[int, bytes]]


def endpoint(address: tuple[str, int]) -> Endpoint:
    """Return the endpoint of a socket address."""
    return Endpoint(address=ip_address(address[0]), port=address[1])


@dataclass
class Reply:
    """An answer, and what tests ask of it."""

    message: StunMessage

    @property
    def error(self) -> int | None:
        """The number of an error response."""
        value = self.message.get(Attribute.ERROR_CODE)
        return None if value is None else decode_error(value)

    @property
    def ok(self) -> bool:
        """Whether it is a success response."""
        return self.message.message_class is MessageClass.SUCCESS

    def address(self, attribute: Attribute) -> Endpoint:
        """Return the XORed address of an attribute."""
        value = self.message.get(attribute)
        assert value is not None, f"no {attribute.name}"
        return decode_xor_address(value, self.message.transaction_id)

    def __getitem__(self, attribute: Attribute) -> bytes:
        """Return the value of an attribute."""
        value = self.message.get(attribute)
        assert value is not None, f"no {attribute.name}"
        return value


@dataclass
class Credentials:
    """What a client signs with, and what it has learned of the server."""

    username: str = ""
    password: str = ""
    sha256: bool = False
    """Choose SHA-256 for the key and for the integrity, as RFC 8489 lets a client."""
    anonymous: bool = False
    """Send USERHASH instead of USERNAME."""
    key: bytes | None = None
    """Instead of what user name and password make."""
    more: list[tuple[int, bytes]] = field(default_factory=list)
    """Further attributes of every authenticated request, such as ACCESS-TOKEN."""
    realm: str = ""
    nonce: bytes = b""
    algorithms: bytes = b""

    def learn(self, reply: Reply) -> None:
        """Take what a challenge says."""
        self.realm = reply[Attribute.REALM].decode()
        self.nonce = reply[Attribute.NONCE]
        self.algorithms = reply.message.get(Attribute.PASSWORD_ALGORITHMS) or b""

    def attributes(self) -> list[tuple[int, bytes]]:
        """Return the attributes of an authenticated request."""
        who: tuple[int, bytes] = (Attribute.USERNAME, self.username.encode())
        if self.anonymous:
            who = (Attribute.USERHASH, user_hash(self.username, self.realm))
        listed = [who, (int(Attribute.REALM), self.realm.encode()), (Attribute.NONCE, self.nonce)]
        if self.sha256:
            listed.append((Attribute.PASSWORD_ALGORITHMS, self.algorithms))
            listed.append((Attribute.PASSWORD_ALGORITHM, bytes((0, Algorithm.SHA256, 0, 0))))
        return listed + self.more

    def signing_key(self) -> bytes:
        """Return the key over messages."""
        if self.key is not None:
            return self.key
        algorithm = Algorithm.SHA256 if self.sha256 else Algorithm.MD5
        return long_term_key(self.username, self.realm, self.password, algorithm)


class TurnClient:
    """One client on one 5-tuple."""

    def __init__(
        self,
        server: tuple[str, int],
        *,
        username: str = "",
        password: str = "",
        credentials: Credentials | None = None,
        stream: bool = False,
        tls: ssl.SSLContext | None = None,
        server_name: str = "localhost",
    ) -> None:
        self.server = server
        self.credentials = credentials or Credentials(username=username, password=password)
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self.is_stream = stream or tls is not None
        kind = socket.SOCK_STREAM if self.is_stream else socket.SOCK_DGRAM
        self.socket: socket.socket = socket.socket(family, kind)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(server)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=server_name)
        self._decoder = StreamDecoder()
        self._inbox: list[bytes] = []
        self.indications: list[StunMessage] = []

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the socket."""
        self.socket.close()

    # -- bytes ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send one message; padded on streams."""
        self.socket.sendall(data + bytes(-len(data) & 3) if self.is_stream else data)

    def receive(self) -> bytes:
        """Return the next message: STUN or ChannelData.

        Raises:
            TimeoutError: none came.
            ConnectionError: the server closed.
        """
        while not self._inbox:
            data = self.socket.recv(65_536)
            if self.is_stream:
                if not data:
                    raise ConnectionError("closed by the server")
                self._inbox += self._decoder.feed(data)
            else:
                self._inbox.append(data)
        return self._inbox.pop(0)

    def is_silent(self, wait_s: float = 0.3) -> bool:
        """Return whether nothing comes for a moment."""
        self.socket.settimeout(wait_s)
        try:
            self._inbox.append(self.receive())
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(WAIT_S)
        return False

    # -- requests -------------------------------------------------------------------------------

    def exchange(self, data: bytes) -> Reply:
        """Send a request and return its answer; indications meanwhile are kept."""
        transaction_id = data[8:20]
        self.send(data)
        held: list[bytes] = []
        try:
            while True:
                received = self.receive()
                if received[0] >= 0x40:
                    held.append(received)
                    continue
                message = decode_message(received)
                if message.message_class is MessageClass.INDICATION:
                    self.indications.append(message)
                elif message.transaction_id == transaction_id:
                    return Reply(message)
        finally:
            self._inbox = held + self._inbox

    def plain(
        self, method: Method, attributes: Attributes = (), *, fingerprint: bool = False
    ) -> Reply:
        """Exchange a request without credentials."""
        data = encode_message(
            method, MessageClass.REQUEST, secrets.token_bytes(12), list(attributes)
        )
        return self.exchange(append_fingerprint(data) if fingerprint else data)

    def signed(self, method: Method, attributes: Attributes = ()) -> bytes:
        """Return a signed request."""
        listed = [*attributes, *self.credentials.attributes()]
        data = encode_message(method, MessageClass.REQUEST, secrets.token_bytes(12), listed)
        return append_integrity(
            data, self.credentials.signing_key(), sha256=self.credentials.sha256
        )

    def request(self, method: Method, attributes: Attributes = ()) -> Reply:
        """Exchange a signed request, answering one challenge."""
        if not self.credentials.nonce:
            self.credentials.learn(self.plain(method, attributes))
        reply = self.exchange(self.signed(method, attributes))
        if reply.error == ErrorCode.STALE_NONCE:
            self.credentials.learn(reply)
            reply = self.exchange(self.signed(method, attributes))
        return reply

    # -- TURN -----------------------------------------------------------------------------------

    def allocate(self, attributes: Attributes = (), *, transport: bytes = UDP) -> Endpoint:
        """Allocate; return the relayed address."""
        reply = self.try_allocate(attributes, transport=transport)
        assert reply.ok, f"error {reply.error}"
        return reply.address(Attribute.XOR_RELAYED_ADDRESS)

    def try_allocate(self, attributes: Attributes = (), *, transport: bytes = UDP) -> Reply:
        """Allocate; return the answer."""
        asked = [(int(Attribute.REQUESTED_TRANSPORT), transport), *attributes]
        return self.request(Method.ALLOCATE, asked)

    def refresh(self, lifetime_s: int | None = None, attributes: Attributes = ()) -> Reply:
        """Refresh."""
        asked = list(attributes)
        if lifetime_s is not None:
            asked.append((Attribute.LIFETIME, lifetime_s.to_bytes(4, "big")))
        return self.request(Method.REFRESH, asked)

    def permit(self, *peers: Endpoint) -> Reply:
        """Create permissions for peers."""
        return self._with_peers(Method.CREATE_PERMISSION, peers)

    def bind_channel(self, number: int, peer: Endpoint) -> Reply:
        """Bind a channel."""
        value = number.to_bytes(2, "big") + bytes(2)
        return self._with_peers(
            Method.CHANNEL_BIND, [peer], [(int(Attribute.CHANNEL_NUMBER), value)]
        )

    def _with_peers(
        self, method: Method, peers: Sequence[Endpoint], attributes: Attributes = ()
    ) -> Reply:
        """Exchange a request whose addresses depend on its transaction ID (IPv6)."""
        if not self.credentials.nonce:
            self.credentials.learn(self.plain(method))
        transaction_id = secrets.token_bytes(12)
        listed = list(attributes)
        listed += [
            (int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(peer, transaction_id))
            for peer in peers
        ]
        listed += self.credentials.attributes()
        data = encode_message(method, MessageClass.REQUEST, transaction_id, listed)
        key = self.credentials.signing_key()
        return self.exchange(append_integrity(data, key, sha256=self.credentials.sha256))

    def send_channel(self, number: int, data: bytes) -> None:
        """Send ChannelData."""
        self.send(encode_channel_head(number, len(data)) + data)

    def send_indication(self, peer: Endpoint, data: bytes, attributes: Attributes = ()) -> None:
        """Send a Send indication."""
        transaction_id = secrets.token_bytes(12)
        listed = [
            (int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(peer, transaction_id)),
            (int(Attribute.DATA), data),
            *attributes,
        ]
        self.send(encode_message(Method.SEND, MessageClass.INDICATION, transaction_id, listed))

    def receive_data(self) -> tuple[Endpoint, bytes]:
        """Return peer and payload of the next Data indication."""
        message = decode_message(self.receive())
        assert message.method == Method.DATA
        data = message.get(Attribute.DATA)
        assert data is not None
        return Reply(message).address(Attribute.XOR_PEER_ADDRESS), data
