"""Owns the bytes of a SOCKS5 server: handshake, replies and UDP headers (RFC 1928, RFC 1929)."""

from dataclasses import dataclass, field
from enum import IntEnum
from hmac import compare_digest
from ipaddress import IPv4Address, IPv6Address

from masque_relay.contract.address import Endpoint, Target
from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host

MAX_HANDSHAKE_BYTES = 1_200
"""255 methods, 2 x 255 bytes of user and password and a request with a name of 255 fit."""

_VERSION = 5
_LOGIN_VERSION = 1  # RFC 1929 section 2
_NO_LOGIN = 0x00
_LOGIN = 0x02
_NO_METHOD = 0xFF
_IPV4, _NAME, _IPV6 = 1, 3, 4  # RFC 1928 section 5
_NOWHERE = Endpoint(address=IPv4Address(0), port=0)


class SocksCommand(IntEnum):
    """RFC 1928 section 4; BIND (2) is refused."""

    CONNECT = 1
    UDP_ASSOCIATE = 3


class SocksReply(IntEnum):
    """RFC 1928 section 6."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What programs must show before they may use the proxy."""

    user: str
    password: str = field(repr=False)

    def accepts(self, user: bytes, password: bytes) -> bool:
        """Compare in constant time; both parts are always compared."""
        good_user = compare_digest(user, self.user.encode())
        good_password = compare_digest(password, self.password.encode())
        return good_user and good_password


@dataclass(frozen=True, slots=True, kw_only=True)
class SocksRequest:
    """What a program asks for."""

    command: SocksCommand
    target: Target | None
    """None for UDP ASSOCIATE, where the field is but a hint at the program's own address."""


class SocksHandshake:
    """The server's side of one SOCKS5 handshake, as bytes; knows no socket.

    Feed it what the program sends and send what :meth:`feed` returns, until :attr:`is_over`. Then
    there is a :attr:`request`, which the caller answers with :func:`encode_reply`, or none, and the
    connection is to be closed.

    Attributes:
        request: complete and valid, or None.
        failure: why there will be no request, for the log; None while there may be one.
        is_login_refused: the failure is a wrong user or password, or none at all.
        rest: bytes that came after the request.
    """

    def __init__(self, *, login: Login | None = None) -> None:
        """Begin; with ``login`` only RFC 1929 is accepted."""
        self.request: SocksRequest | None = None
        self.failure: str | None = None
        self.is_login_refused = False
        self.rest = b""
        self._login = login
        self._buffer = b""
        self._step = self._take_methods

    @property
    def is_over(self) -> bool:
        """Whether there is a request, or there will be none."""
        return self.request is not None or self.failure is not None

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the program, any number of them; return what to send."""
        self._buffer += data
        replies = b""
        while not self.is_over:
            before = self._buffer
            replies += self._step()
            if self._buffer is before:
                break  # more is needed
        if not self.is_over and len(self._buffer) > MAX_HANDSHAKE_BYTES:
            self.failure = "handshake too long"
        self.rest = self._buffer if self.request is not None else b""
        return replies

    # -- steps: each takes one message from the buffer if it is whole, and returns the answer -----

    def _take_methods(self) -> bytes:
        if not self._buffer:
            return b""
        if self._buffer[0] != _VERSION:
            # a program that speaks SOCKS4 or HTTP to this port; or a web page that tries ports
            self.failure = f"SOCKS version {self._buffer[0]} instead of 5"
            return b""
        message = self._cut(2 + self._byte(1))
        if message is None:
            return b""
        wanted = _NO_LOGIN if self._login is None else _LOGIN
        if wanted not in message[2:]:
            self.failure = "no acceptable authentication method"
            self.is_login_refused = self._login is not None
            return bytes([_VERSION, _NO_METHOD])
        self._step = self._take_request if self._login is None else self._take_login
        return bytes([_VERSION, wanted])

    def _take_login(self) -> bytes:
        user_bytes = self._byte(1)
        message = self._cut(3 + user_bytes + self._byte(2 + user_bytes))
        if message is None:
            return b""
        user, password = message[2 : 2 + user_bytes], message[3 + user_bytes :]
        login = self._login
        if message[0] != _LOGIN_VERSION or login is None or not login.accepts(user, password):
            self.failure = "user or password not accepted"
            self.is_login_refused = True
            return bytes([_LOGIN_VERSION, 1])
        self._step = self._take_request
        return bytes([_LOGIN_VERSION, 0])

    def _take_request(self) -> bytes:
        if len(self._buffer) < 5:
            return b""
        size = _address_bytes(self._buffer[3], self._buffer[4])
        if size is None:
            return self._fail("unknown address type", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED)
        message = self._cut(3 + size)
        return b"" if message is None else self._read_request(message)

    def _read_request(self, message: bytes) -> bytes:
        if message[0] != _VERSION:
            return self._fail("a request of another version", SocksReply.GENERAL_FAILURE)
        try:
            command = SocksCommand(message[1])
        except ValueError:
            return self._fail(f"command {message[1]}", SocksReply.COMMAND_NOT_SUPPORTED)
        if command is SocksCommand.UDP_ASSOCIATE:
            self.request = SocksRequest(command=command, target=None)
            return b""
        try:
            target, _ = _decode_target(message, 3)
        except WireError as error:
            return self._fail(error.detail, SocksReply.ADDRESS_TYPE_NOT_SUPPORTED)
        self.request = SocksRequest(command=command, target=target)
        return b""

    def _fail(self, failure: str, reply: SocksReply) -> bytes:
        self.failure = failure
        return encode_reply(reply)

    def _byte(self, offset: int) -> int:
        """Return a length, or a large one where it has not come yet, so that nothing is cut."""
        return self._buffer[offset] if offset < len(self._buffer) else MAX_HANDSHAKE_BYTES

    def _cut(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        message, self._buffer = self._buffer[:size], self._buffer[size:]
        return message


def encode_reply(reply: SocksReply, bound: Endpoint = _NOWHERE) -> bytes:
    """Return the answer to a request (RFC 1928 section 6).

    Args:
        reply: success, or what went wrong.
        bound: BND.ADDR and BND.PORT: with UDP ASSOCIATE where datagrams go.
    """
    target = Target(host=bound.address, port=bound.port)
    return bytes([_VERSION, reply, 0]) + _encode_target(target)


def encode_udp_header(target: Target) -> bytes:
    """Return what stands before a datagram that came from a target (RFC 1928 section 7)."""
    return b"\0\0\0" + _encode_target(target)


def decode_udp_datagram(datagram: bytes) -> tuple[Target, bytes]:
    """Return where a program's datagram goes, and its payload (RFC 1928 section 7).

    Raises:
        WireError: too short, a fragment (which a relay need not put together), or a bad target.
    """
    section = "RFC 1928 section 7"
    if len(datagram) < 8:
        raise WireError("datagram shorter than its header", section=section)
    if datagram[2] != 0:
        raise WireError("fragment", section=section)
    size = _address_bytes(datagram[3], datagram[4])
    if size is None or len(datagram) < 3 + size:
        raise WireError("address of an unknown type, or cut off", section=section)
    target, end = _decode_target(datagram, 3)
    return target, datagram[end:]


def _address_bytes(kind: int, name_bytes: int) -> int | None:
    """Return the bytes of type, address and port; None for a type that does not exist."""
    match kind:
        case 1:
            return 7
        case 3:
            return 4 + name_bytes
        case 4:
            return 19
        case _:
            return None


def _decode_target(message: bytes, offset: int) -> tuple[Target, int]:
    """Return the target that begins at its type byte, which is whole, and where it ends."""
    kind, start = message[offset], offset + 1
    if kind == _IPV4:
        end = start + 4
        text = str(IPv4Address(message[start:end]))
    elif kind == _IPV6:
        end = start + 16
        text = str(IPv6Address(message[start:end]))
    else:
        end = start + 1 + message[start]
        try:
            text = message[start + 1 : end].decode("ascii")
        except UnicodeDecodeError:
            raise WireError(
                "name is not ASCII: send the A-label form", section="RFC 1928 section 5"
            ) from None
    port = int.from_bytes(message[end : end + 2], "big")
    if port == 0:
        raise WireError("port 0", section="RFC 1928 section 4")
    # programs write literal addresses as names too; parse_host unwraps IPv4-mapped ones
    return Target(host=parse_host(text), port=port), end + 2


def _encode_target(target: Target) -> bytes:
    port = target.port.to_bytes(2, "big")
    match target.host:
        case IPv4Address() as address:
            return bytes([_IPV4]) + address.packed + port
        case IPv6Address() as address:
            return bytes([_IPV6]) + address.packed + port
        case str() as name:
            return bytes([_NAME, len(name)]) + name.encode("ascii") + port
