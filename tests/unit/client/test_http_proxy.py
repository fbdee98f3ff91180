"""Owns the tests of the HTTP proxy's bytes: requests taken apart and put together again."""

from base64 import b64encode
from http import HTTPStatus

import pytest

from masque_relay.client.address import parse_target
from masque_relay.client.http_proxy import ForwardExchange, HttpDoor, HttpRefused, HttpRequest
from masque_relay.client.socks import Login

GET = b"GET http://web.example/a?b=c HTTP/1.1\r\nHost: other.example\r\nAccept: */*\r\n\r\n"
POST = b"POST http://web.example:8080/p HTTP/1.1\r\nHost: web.example:8080\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def door(login: Login | None = None) -> HttpDoor:
    return HttpDoor(login=login, head_bytes=4_096)


def read(data: bytes, *, login: Login | None = None, step: int = 1_000) -> HttpRequest | None:
    """Feed a head in pieces."""
    entrance = door(login)
    found = None
    for start in range(0, len(data), step):
        entrance.feed(data[start : start + step])
        found = entrance.next_request()
    return found


def forwarding(data: bytes) -> tuple[HttpDoor, ForwardExchange, bytes]:
    """Begin an exchange; return the bytes that the target gets first."""
    entrance = door()
    entrance.feed(data)
    request = entrance.next_request()
    assert request is not None
    exchange = ForwardExchange(entrance, request)
    return entrance, exchange, exchange.begin() + exchange.take_body()


class TestRequests:
    """RFC 9112 section 3.2, RFC 9110 section 9.3.6."""

    @pytest.mark.parametrize("step", [1, 7, 1_000])
    def test_an_absolute_form_request_names_its_target(self, step: int) -> None:
        request = read(GET, step=step)
        assert request is not None
        assert not request.is_connect
        assert request.target == parse_target("web.example:80")

    @pytest.mark.parametrize("step", [1, 7, 1_000])
    @pytest.mark.parametrize("authority", ["web.example:443", "192.0.2.1:1", "[2001:db8::7]:22"])
    def test_a_connect_names_its_target(self, authority: str, step: int) -> None:
        head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        request = read(head.encode(), step=step)
        assert request is not None
        assert request.is_connect
        assert request.target == parse_target(authority)

    @pytest.mark.parametrize(
        ("line", "status"),
        [
            (b"GET / HTTP/1.1", 400),
            (b"GET https://web.example/ HTTP/1.1", 400),
            (b"GET http://user@web.example/ HTTP/1.1", 400),
            (b"GET http://web.example:0/ HTTP/1.1", 400),
            (b"GET http:/// HTTP/1.1", 400),
            (b"CONNECT web.example HTTP/1.1", 400),
            (b"CONNECT web.example:99999 HTTP/1.1", 400),
            (b"\x05\x01\x00", 400),
            (b"GET http://a/" + b"x" * 5_000 + b" HTTP/1.1", 431),
        ],
    )
    def test_what_is_no_request_for_a_proxy_is_refused(self, line: bytes, status: int) -> None:
        with pytest.raises(HttpRefused) as refused:
            read(line + b"\r\nHost: web.example\r\n\r\n")
        assert refused.value.status == status

    def test_the_end_of_the_program_is_the_end(self) -> None:
        entrance = door()
        entrance.feed(b"")
        with pytest.raises(EOFError):
            entrance.next_request()


class TestLogin:
    LOGIN = Login(user="ann", password="s3:cret")

    @pytest.mark.parametrize(
        "value",
        [None, "Basic", "Basic !!!", "Bearer YW5uOnMzOmNyZXQ=", "Basic " + "YW5uOndyb25n"],
    )
    def test_who_does_not_show_it_is_asked_for_it(self, value: str | None) -> None:
        field = "" if value is None else f"Proxy-Authorization: {value}\r\n"
        head = f"CONNECT web.example:443 HTTP/1.1\r\nHost: web.example\r\n{field}\r\n"
        with pytest.raises(HttpRefused) as refused:
            read(head.encode(), login=self.LOGIN)
        assert refused.value.status == 407
        assert refused.value.fields[0][0] == b"Proxy-Authenticate"

    def test_who_shows_it_is_served(self) -> None:
        value = b64encode(b"ann:s3:cret").decode()
        field = f"Proxy-Authorization: basic {value}"
        head = f"CONNECT w.example:443 HTTP/1.1\r\nHost: w\r\n{field}\r\n\r\n"
        assert read(head.encode(), login=self.LOGIN) is not None


class TestAnswers:
    def test_an_answer_of_ours_is_whole_and_closes(self) -> None:
        entrance = door()
        entrance.feed(GET)
        entrance.next_request()
        answer = entrance.answer(HTTPStatus.BAD_REQUEST, "no", [(b"X", b"1")])
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"content-length: 3\r\n" in answer.lower()
        assert b"connection: close\r\n" in answer.lower()
        assert answer.endswith(b"\r\n\r\nno\n")

    def test_a_connect_is_accepted_and_keeps_what_came_after_it(self) -> None:
        entrance = door()
        entrance.feed(b"CONNECT web.example:443 HTTP/1.1\r\nHost: w\r\n\r\nclient hello")
        assert entrance.next_request() is not None
        answer, rest = entrance.accept_connect()
        assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert rest == b"client hello"


class TestForwarding:
    """RFC 9110 sections 7.2 and 7.6, RFC 9112 sections 3.2.2 and 6."""

    def test_the_target_gets_origin_form_and_the_host_of_the_url(self) -> None:
        _, exchange, head = forwarding(GET)
        assert head == (
            b"GET /a?b=c HTTP/1.1\r\nHost: web.example\r\nAccept: */*\r\n"
            b"Via: 1.1 ghostctl\r\nConnection: close\r\n\r\n"
        )
        assert not exchange.wants_body

    @pytest.mark.parametrize(
        ("url", "path"), [(b"http://w.example", b"/"), (b"http://w.example?q", b"/?q")]
    )
    def test_an_empty_path_is_a_slash(self, url: bytes, path: bytes) -> None:
        _, _, head = forwarding(b"GET " + url + b" HTTP/1.1\r\nHost: w.example\r\n\r\n")
        assert head.startswith(b"GET " + path + b" HTTP/1.1\r\n")

    def test_fields_for_this_hop_do_not_go_on(self) -> None:
        _, _, head = forwarding(
            POST + b"Connection: x-one, keep-alive\r\nX-One: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
            b"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nUpgrade: h2c\r\n"
            b"X-Two: 2\r\nContent-Length: 0\r\n\r\n"
        )
        lower = head.lower()
        for name in (b"x-one", b"keep-alive", b"te:", b"proxy-", b"upgrade"):
            assert name not in lower
        assert b"x-two: 2" in lower

    def test_a_body_goes_on_and_what_follows_it_does_not(self) -> None:
        _, exchange, sent = forwarding(POST + b"Content-Length: 5\r\n\r\nhel")
        assert exchange.wants_body
        sent += exchange.take_body(b"loGET http://other.example/ HTTP/1.1\r\n\r\n")
        assert sent.endswith(b"\r\n\r\nhello")
        assert not exchange.wants_body

    def test_a_chunked_body_stays_chunked(self) -> None:
        _, exchange, sent = forwarding(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        sent += exchange.take_body(b"5\r\nhello\r\n0\r\n\r\n")
        assert sent.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        assert b"transfer-encoding: chunked" in sent.lower()

    def test_length_beside_chunked_cannot_smuggle_a_request(self) -> None:
        smuggled = b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: web.example\r\n\r\n"
        head = POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(smuggled)
        with pytest.raises(HttpRefused) as refused:
            forwarding(head + smuggled)
        assert refused.value.status == 400

    def test_a_broken_body_is_refused(self) -> None:
        _, exchange, _ = forwarding(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(HttpRefused):
            exchange.take_body(b"zz\r\n")

    def test_half_a_body_is_refused(self) -> None:
        _, exchange, _ = forwarding(POST + b"Content-Length: 5\r\n\r\nhel")
        with pytest.raises(HttpRefused):
            exchange.take_body(b"")


class TestResponses:
    def test_a_response_with_a_length_leaves_the_connection_open(self) -> None:
        entrance, exchange, _ = forwarding(GET)
        out = exchange.take_response(OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi")
        assert out.endswith(b"\r\n\r\nhi")
        assert b"connection: close" not in out.lower()
        assert b"via: 1.1 ghostctl" in out.lower()
        assert exchange.is_answered
        assert exchange.finish()
        entrance.feed(GET)
        assert entrance.next_request() is not None

    def test_a_response_byte_by_byte_is_the_same(self) -> None:
        _, exchange, _ = forwarding(GET)
        response = OK + b"Content-Length: 2\r\n\r\nhi"
        out = b"".join(exchange.take_response(bytes([byte])) for byte in response)
        assert out.endswith(b"\r\n\r\nhi")
        assert exchange.is_answered

    def test_a_response_without_a_length_ends_with_the_target(self) -> None:
        _, exchange, _ = forwarding(GET)
        out = exchange.take_response(OK + b"\r\nhello")
        assert not exchange.is_answered
        out += exchange.take_response(b"")
        assert exchange.is_answered
        assert out.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    def test_a_length_beside_chunked_does_not_go_on(self) -> None:
        _, exchange, _ = forwarding(GET)
        out = exchange.take_response(
            OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        )
        assert b"content-length" not in out.lower()
        assert out.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")

    def test_interim_responses_go_on(self) -> None:
        _, exchange, _ = forwarding(GET)
        out = exchange.take_response(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        assert out.startswith(b"HTTP/1.1 103 ")
        assert not exchange.is_answered

    def test_a_response_that_breaks_off_is_refused(self) -> None:
        entrance, exchange, _ = forwarding(GET)
        exchange.take_response(OK + b"Content-Length: 5\r\n\r\nhel")
        with pytest.raises(HttpRefused) as refused:
            exchange.take_response(b"")
        assert refused.value.status == 502
        assert entrance.answer(refused.value.status, "too late", []) == b""

    def test_no_response_at_all_is_a_bad_gateway(self) -> None:
        entrance, exchange, _ = forwarding(GET)
        with pytest.raises(HttpRefused) as refused:
            exchange.take_response(b"")
        assert entrance.answer(refused.value.status, "gone", []).startswith(b"HTTP/1.1 502 ")

    def test_an_answer_before_the_end_of_the_body_closes_the_connection(self) -> None:
        _, exchange, _ = forwarding(POST + b"Content-Length: 5\r\n\r\nhel")
        exchange.take_response(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        assert exchange.is_answered
        assert not exchange.finish()
