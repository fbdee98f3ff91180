"""Owns a verifier of node keys, as `gate.node_keys.verifier_url` names one."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any


class Verifier(HTTPServer):
    """Allows some keys.

    Attributes:
        asked: the questions so far.
    """

    def __init__(self, *allowed: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.allowed = frozenset(allowed)
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Verifier

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        asked = json.loads(self.rfile.read(length))
        self.server.asked.append(asked)
        body = json.dumps({"Allow": asked["NodePublic"] in self.server.allowed}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def run_verifier(*allowed: str) -> Generator[Verifier]:
    """Answer while the block runs: yes to these keys (``nodekey:…``), no to others."""
    server = Verifier(*allowed)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
