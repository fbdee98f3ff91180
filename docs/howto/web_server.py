"""A web site for the how-to pages: every path is answered with itself. Python alone, no library.

Usage: python3 docs/howto/web_server.py PORT
"""
# ruff: noqa: INP001, T201 - a script of its own, which talks to a person

import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Page(BaseHTTPRequestHandler):
    """Says what was asked for."""

    def do_GET(self) -> None:
        """Answer one request."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"you asked for {self.path}\n".encode())


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    with HTTPServer(("127.0.0.1", int(sys.argv[1])), Page) as server:
        print(f"a web site on 127.0.0.1:{sys.argv[1]}", flush=True)
        server.serve_forever()
