"""Owns a web server for mesh tests: Python's own, which sends as slowly as it is asked to.

    python3 web_server.py HOST PORT DIRECTORY
    curl http://HOST:PORT/file.bin?bytes_per_s=200000

A client that reads slowly would not do: the kernels on the way take megabytes for it at once, and
what looks like the middle of a transfer is its end.
"""

import shutil
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TURN_S = 0.05


class PacedHandler(SimpleHTTPRequestHandler):
    """Serves files, at the rate of the query if it names one."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file."""
        asked = parse_qs(urlsplit(self.path).query).get("bytes_per_s")
        if asked is None:
            shutil.copyfileobj(source, outputfile)
            return
        while data := source.read(int(int(asked[0]) * TURN_S)):
            outputfile.write(data)
            time.sleep(TURN_S)


def main() -> None:
    """Serve until killed."""
    host, port, directory = sys.argv[1:]
    handler = partial(PacedHandler, directory=directory)
    with ThreadingHTTPServer((host, int(port)), handler) as server:
        print("Serving", flush=True)  # noqa: T201 (what its parent waits for)
        server.serve_forever()


if __name__ == "__main__":
    main()
