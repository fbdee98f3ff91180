"""Requests that two parsers could read differently, on real connections (RFC 9112 section 11.2).

Each shape hides a second request. Whatever becomes of the first, the hidden one is never run.
"""

from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.web_rig import serving_web
from tests.support.websocket_frames import upgrade_head

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Listing:
    """An application that reads each request to its end and lists its path."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.paths.append(scope["path"])
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        is_tunnel = "http.connect" in scope["extensions"]
        while not is_tunnel and (await receive()).get("more_body", False):
            pass
        status = 501 if is_tunnel else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})


def request(*lines: bytes, body: bytes = b"", method: bytes = b"POST") -> bytes:
    return b"\r\n".join([method + b" / HTTP/1.1", b"Host: localhost", *lines, b"", b""]) + body


CHUNKED_END = b"0\r\n\r\n"
SHAPES = {
    "content-length and transfer-encoding": request(
        b"Content-Length: 4", b"Transfer-Encoding: chunked", body=CHUNKED_END + HIDDEN
    ),
    "transfer-encoding and content-length": request(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=CHUNKED_END + HIDDEN
    ),
    "two lengths": request(b"Content-Length: 0", b"Content-Length: 43", body=HIDDEN),
    "two lengths in one line": request(b"Content-Length: 0, 43", body=HIDDEN),
    "a signed length": request(b"Content-Length: +0", body=HIDDEN),
    "a hexadecimal length": request(b"Content-Length: 0x0", body=HIDDEN),
    "an unknown coding": request(b"Transfer-Encoding: xchunked", body=CHUNKED_END + HIDDEN),
    "a coding under another": request(
        b"Transfer-Encoding: chunked, identity", body=CHUNKED_END + HIDDEN
    ),
    "two codings": request(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=CHUNKED_END + HIDDEN
    ),
    "a space before the colon": request(b"Content-Length : 43", body=HIDDEN),
    "a folded line": request(b"X: a", b" Content-Length: 43", body=HIDDEN),
    "a folded coding": request(b"Transfer-Encoding:", b" chunked", body=CHUNKED_END + HIDDEN),
    "a bare LF": b"POST / HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n" + HIDDEN,
    "one bare LF among CRLF": b"POST / HTTP/1.1\r\nHost: localhost\nContent-Length: 43\r\n\r\n"
    + HIDDEN,
    "a bare CR": b"POST / HTTP/1.1\r\nHost: localhost\rContent-Length: 43\r\n\r\n" + HIDDEN,
    "a NUL in a value": request(b"X: a\0b", body=HIDDEN),
    "two hosts": request(b"Host: elsewhere", body=HIDDEN, method=b"GET"),
    "a space in the target": b"GET / /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "transfer-encoding with HTTP/1.0": b"POST / HTTP/1.0\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED_END + HIDDEN,
    "a chunk size with a sign": request(b"Transfer-Encoding: chunked", body=b"+0\r\n\r\n" + HIDDEN),
    "a chunk size with a space": request(
        b"Transfer-Encoding: chunked", body=b"1 0\r\n\r\n" + HIDDEN
    ),
    "a chunk that ends with a bare LF": request(
        b"Transfer-Encoding: chunked", body=b"1\r\na\n0\r\n\r\n" + HIDDEN
    ),
    "a connect with content": request(b"Content-Length: 0", body=HIDDEN, method=b"CONNECT").replace(
        b"CONNECT /", b"CONNECT a.example:443"
    ),
    # RFC 9931 section 6: what follows a refused Upgrade may be for the protocol that was asked for.
    "optimistic data after connect": b"CONNECT a.example:443 HTTP/1.1\r\n"
    b"Host: a.example:443\r\n\r\n" + HIDDEN,
    "optimistic data after connect-udp": request(
        b"Connection: Upgrade",
        b"Upgrade: connect-udp",
        b"Capsule-Protocol: ?1",
        body=HIDDEN,
        method=b"GET",
    ),
    "optimistic data after websocket": upgrade_head("/") + HIDDEN,
    "optimistic data after a bad websocket": upgrade_head("/").replace(b": 13", b": 12") + HIDDEN,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_hidden_request_is_never_run(tmp_path: Path, shape: str) -> None:
    app = Listing()
    async with serving_web(tmp_path, app) as web:
        client = await web.h1()
        answer = await client.request(SHAPES[shape])
        assert answer.status in {400, 403, 426, 501}
        await client.body(answer)
        assert await client.is_closed()
        assert "/hidden" not in app.paths
        assert (await (await web.h1()).request(HIDDEN)).status == 200


async def test_what_is_not_ambiguous_is_a_pipeline(tmp_path: Path) -> None:
    """Or the tests above would prove nothing."""
    app = Listing()
    async with serving_web(tmp_path, app) as web:
        client = await web.h1()
        for first in (
            request(b"Content-Length: 2", body=b"ab"),
            request(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n" + CHUNKED_END),
        ):
            answer = await client.request(first + HIDDEN)
            await client.body(answer)
            assert (await client.head()).status == 200
            await client.body(answer)
        assert app.paths == ["/", "/hidden"] * 2
