"""h2spec, the conformance suite of HTTP/2, against the TCP front."""

import asyncio
import re
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.support.go_programs import build_go_program
from tests.support.h3_client import WAIT_S
from tests.support.web_rig import serving_web

SUMMARY = re.compile(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed")


async def answer(request: Request) -> Response:
    """Answer when the whole request is there, as an application that wants it does.

    A page that does not may answer before the suite has sent what is wrong with its content, and
    be right (RFC 9113 section 8.1); the suite's verdict would be a matter of timing.
    """
    await request.body()
    return PlainTextResponse("an answer\n")


async def test_h2spec_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    program = await asyncio.to_thread(
        build_go_program, "h2spec", "github.com/summerwind/h2spec/cmd/h2spec"
    )
    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST", "HEAD", "OPTIONS"])])
    async with serving_web(tmp_path, app) as web:
        suite = await asyncio.create_subprocess_exec(
            str(program),
            *("generic", "http2", "hpack"),
            *("-h", "localhost", "-p", str(web.https_address.port), "-t", "-k", "-o", "5"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(6 * WAIT_S):
            output, _ = await suite.communicate()

    summary = SUMMARY.search(output.decode())
    assert summary, output.decode()
    total, passed, skipped, failed = map(int, summary.groups())
    assert (passed, skipped, failed) == (total, 0, 0), output.decode()
    assert total >= 145
