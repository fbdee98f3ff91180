"""Owns the bytes of an HTTP/1.1 proxy: CONNECT and absolute-form requests (RFC 9110, RFC 9112)."""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import h11

from masque_relay.client.address import parse_target
from masque_relay.client.errors import AddressError
from masque_relay.client.proxy_answers import PROXY_NAME
from masque_relay.client.socks import Login
from masque_relay.contract.address import Target
from masque_relay.wire.authority import parse_authority
from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host

Fields = list[tuple[bytes, bytes]]

_ABSOLUTE_FORM = re.compile(rb"http://([^/?#]+)([^#]*)", re.IGNORECASE | re.DOTALL)
_HTTP_PORT = 80
_VIA = (b"Via", b"1.1 " + PROXY_NAME.encode("ascii"))  # RFC 9110 section 7.6.3: a proxy must

# RFC 9110 section 7.6.1, and two that only proxies know. transfer-encoding is h11's business.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"proxy-authorization"}
    | {b"proxy-authenticate"}
)


class HttpRefused(Exception):  # noqa: N818 - the name says what happened
    """A program's request that is answered here.

    Attributes:
        status: of the answer.
        text: for the person.
        fields: further fields of the answer.
    """

    def __init__(
        self, status: HTTPStatus, text: str, fields: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.fields = list(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """What a program asks for."""

    target: Target
    is_connect: bool
    head: h11.Request


class HttpDoor:
    """The server's side of one program's connection; knows no socket.

    Any number of absolute-form requests may follow each other, or one CONNECT ends the HTTP part.

    Args:
        login: what ``Proxy-Authorization`` must show, if anything.
        head_bytes: the largest request head.
    """

    def __init__(self, *, login: Login | None, head_bytes: int) -> None:
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=head_bytes)
        self._login = login

    def feed(self, data: bytes) -> None:
        """Take bytes from the program; empty at its end."""
        self.h11.receive_data(data)

    def next_request(self) -> HttpRequest | None:
        """Return the next request once its head is whole; None while it is not.

        Raises:
            HttpRefused: it cannot be served; answer it with :meth:`answer` and close.
            EOFError: the program has ended the connection.
        """
        try:
            event = self.h11.next_event()
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint or 400)
            raise HttpRefused(status, f"this is no HTTP/1.1 request: {error}") from error
        if isinstance(event, h11.ConnectionClosed):
            raise EOFError
        return self._read(event) if isinstance(event, h11.Request) else None

    def accept_connect(self) -> tuple[bytes, bytes]:
        """Return the answer to a CONNECT, and what the program sent after it."""
        answer = self.h11.send(
            h11.Response(status_code=200, headers=[], reason=b"Connection established")
        )
        return answer or b"", bytes(self.h11.trailing_data[0])

    def answer(self, status: HTTPStatus, text: str, fields: Fields) -> bytes:
        """Return a whole answer of our own, after which the connection closes.

        Empty where an answer has begun already, which cannot be taken back.
        """
        if self.h11.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return b""
        body = text.encode() + b"\n"
        head = h11.Response(
            status_code=int(status),
            reason=status.phrase.encode("ascii"),
            headers=[
                (b"Content-Type", b"text/plain; charset=utf-8"),
                (b"Content-Length", str(len(body)).encode("ascii")),
                (b"Cache-Control", b"no-store"),
                (b"Connection", b"close"),
                *fields,
            ],
        )
        parts = (head, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self.h11.send(part) or b"" for part in parts)

    def _read(self, head: h11.Request) -> HttpRequest:
        self._check_login(head)
        if _is_chunked(head) and any(name == b"content-length" for name, _ in head.headers):
            # RFC 9112 section 6.1: the shape of request smuggling; h11 would take it
            raise HttpRefused(HTTPStatus.BAD_REQUEST, "Content-Length beside Transfer-Encoding")
        is_connect = head.method == b"CONNECT"
        try:
            target = _connect_target(head) if is_connect else _absolute_target(head)
        except (AddressError, WireError, UnicodeDecodeError) as error:
            raise HttpRefused(HTTPStatus.BAD_REQUEST, f"bad target: {error}") from error
        return HttpRequest(target=target, is_connect=is_connect, head=head)

    def _check_login(self, head: h11.Request) -> None:
        if self._login is None:
            return
        for name, value in head.headers:
            if name == b"proxy-authorization" and _shows(value, self._login):
                return
        raise HttpRefused(
            HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
            "this proxy wants a user and a password",
            [(b"Proxy-Authenticate", b'Basic realm="ghostctl", charset="UTF-8"')],
        )


class ForwardExchange:
    """One absolute-form request on its way to the target, and the response on its way back.

    Both are taken apart and put together again, so that neither side can make bytes of one message
    look like another. The target's connection is used for this one exchange.
    """

    def __init__(self, door: HttpDoor, request: HttpRequest) -> None:
        self._door = door.h11
        self._request = request
        self._target = h11.Connection(h11.CLIENT)

    @property
    def wants_body(self) -> bool:
        """Whether more of the program's request is to come."""
        return self._door.their_state is h11.SEND_BODY

    @property
    def is_answered(self) -> bool:
        """Whether the whole response has been handed over."""
        return self._door.our_state in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}

    def begin(self) -> bytes:
        """Return the request's head as the target gets it."""
        head = self._request.head
        match = _ABSOLUTE_FORM.fullmatch(head.target)
        path = match[2] if match is not None else b"/"
        if not path.startswith(b"/"):
            path = b"/" + path
        authority = (match[1] if match is not None else b"").rpartition(b"@")[2]
        kept = [field for field in _end_to_end(head) if field[0].lower() != b"host"]
        fields = [(b"Host", authority), *kept, _VIA, (b"Connection", b"close")]
        message = h11.Request(method=head.method, target=path, headers=fields)
        return self._target.send(message) or b""

    def take_body(self, data: bytes | None = None) -> bytes:
        """Take bytes from the program (None: what was fed before); return bytes for the target.

        Raises:
            HttpRefused: the program broke HTTP/1.1.
        """
        try:
            if data is not None:
                self._door.receive_data(data)
            out = b""
            while isinstance(event := self._door.next_event(), h11.Data | h11.EndOfMessage):
                out += self._target.send(event) or b""
                if isinstance(event, h11.EndOfMessage):
                    break
        except h11.ProtocolError as error:
            raise HttpRefused(HTTPStatus.BAD_REQUEST, f"bad request body: {error}") from error
        return out

    def take_response(self, data: bytes) -> bytes:
        """Take bytes from the target, empty at its end; return bytes for the program.

        Raises:
            HttpRefused: the target broke HTTP/1.1.
        """
        try:
            self._target.receive_data(data)
            out = b""
            while not self.is_answered:
                event = self._target.next_event()
                if not isinstance(
                    event, h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage
                ):
                    break
                out += self._door.send(_for_program(event)) or b""
        except h11.ProtocolError as error:
            raise HttpRefused(HTTPStatus.BAD_GATEWAY, f"bad response: {error}") from error
        return out

    def finish(self) -> bool:
        """Make the door ready for the next request; False where the connection has to close."""
        if self._door.our_state is h11.DONE and self._door.their_state is h11.DONE:
            self._door.start_next_cycle()
            return True
        return False


_ResponseEvent = h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage


def _for_program(event: _ResponseEvent) -> _ResponseEvent:
    if isinstance(event, h11.Response):
        fields = [*_end_to_end(event), _VIA]
        return h11.Response(status_code=event.status_code, reason=event.reason, headers=fields)
    return event


def _end_to_end(message: h11.Request | h11.Response) -> Fields:
    """Return the fields that go on, in their spelling, without those that end here."""
    named: set[bytes] = set()
    for name, value in message.headers:
        if name == b"connection":
            named |= {token.strip().lower() for token in value.split(b",")}
    ending = (_HOP_BY_HOP | named) - {b"transfer-encoding", b"content-length", b"host"}
    if _is_chunked(message):
        ending |= {b"content-length"}  # RFC 9112 section 6.3: it must not be forwarded
    raw = message.headers.raw_items()
    return [(name, value) for name, value in raw if name.lower() not in ending]


def _is_chunked(message: h11.Request | h11.Response) -> bool:
    return any(name == b"transfer-encoding" for name, _ in message.headers)


def _connect_target(head: h11.Request) -> Target:
    return parse_target(head.target.decode("ascii"))


def _absolute_target(head: h11.Request) -> Target:
    match = _ABSOLUTE_FORM.fullmatch(head.target)
    if match is None:
        raise HttpRefused(
            HTTPStatus.BAD_REQUEST,
            "this is a proxy: it takes CONNECT and requests for http://HOST/PATH, and serves "
            "nothing itself",
        )
    host, port = parse_authority(match[1].decode("ascii"), default_port=_HTTP_PORT)
    return Target(host=parse_host(host), port=port)


def _shows(value: bytes, login: Login) -> bool:
    scheme, _, encoded = value.partition(b" ")
    try:
        user, _, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except Base64Error:
        return False
    return scheme.lower() == b"basic" and login.accepts(user, password)
