"""The TLS exporter that an application finds in its scope (RFC 8446 section 7.5)."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.support.http_fakes import GET_HEAD
from tests.support.web_rig import serving_web

LABEL, CONTEXT = b"EXPORTER-test", b"context"


async def export(request: Request) -> Response:
    """Answer with what the exporter says, or that there is none."""
    exporter = request.scope["extensions"]["tls"]["exporter"]
    return PlainTextResponse("none" if exporter is None else exporter(LABEL, CONTEXT, 48).hex())


APP = Starlette(routes=[Route("/", export)])


async def test_over_http3_both_ends_derive_the_same(tmp_path: Path) -> None:
    async with serving_web(tmp_path, APP) as web:
        seen: set[str] = set()
        for _ in range(2):
            client = await web.h3()
            stream_id, exchange = await client.request(GET_HEAD, end=True)
            await client.finished(stream_id)
            ours = client.session.quic.export_keying_material(LABEL, CONTEXT, 48)
            assert exchange.data.decode() == ours.hex()
            assert len(ours) == 48
            assert client.session.quic.export_keying_material(LABEL, b"other", 48) != ours
            seen.add(ours.hex())
        assert len(seen) == 2  # of each connection its own


async def test_over_tcp_there_is_none(tmp_path: Path) -> None:
    async with serving_web(tmp_path, APP) as web:
        h2 = await web.h2()
        _, exchange = await h2.request(GET_HEAD, end=True)
        await h2.until(lambda: exchange.ended)
        assert exchange.data == b"none"
        h1 = await web.h1()
        answer = await h1.request(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await h1.body(answer) == b"none"
