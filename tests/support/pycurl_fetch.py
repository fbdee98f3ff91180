"""Owns one fetch by libcurl through a proxy over TCP: prints one JSON object.

``python -m tests.support.pycurl_fetch URL --proxy https://HOST:PORT --proxy-type 2``: 2 is HTTP/1,
3 is HTTP/2. The tunnel inside is CONNECT-UDP for a page over HTTP/3, with ``--classic`` it is
classic CONNECT. A process of its own, because libcurl is foreign compiled code.
"""

import argparse
import io
import json
import sys

HTTP_VERSION_3_ONLY = 31


def fetch(options: argparse.Namespace) -> dict[str, object]:
    """Fetch one page and return what happened."""
    import pycurl  # noqa: PLC0415  # the interop extra

    curl = pycurl.Curl()
    body, trace = io.BytesIO(), io.BytesIO()
    curl.setopt(pycurl.URL, options.url)
    if options.proxy_type:
        curl.setopt(pycurl.HTTP_VERSION, 0 if options.classic else HTTP_VERSION_3_ONLY)
        curl.setopt(pycurl.PROXY, options.proxy)
        curl.setopt(pycurl.PROXYTYPE, options.proxy_type)
        curl.setopt(pycurl.HTTPPROXYTUNNEL, 1)
        curl.setopt(pycurl.PROXY_CAINFO, options.proxy_ca_file)
        if options.proxy_header:
            curl.setopt(pycurl.PROXYHEADER, options.proxy_header)
        if options.proxy_user:
            curl.setopt(pycurl.PROXYUSERPWD, options.proxy_user)
    curl.setopt(pycurl.CAINFO, options.ca_file)
    curl.setopt(pycurl.WRITEDATA, body)
    curl.setopt(pycurl.TIMEOUT_MS, int(options.timeout_s * 1000))
    curl.setopt(pycurl.VERBOSE, 1)
    curl.setopt(pycurl.DEBUGFUNCTION, lambda kind, data: trace.write(data) if kind <= 2 else None)
    error = None
    try:
        curl.perform()
    except pycurl.error as failure:
        error = int(failure.args[0])
    return {
        "body": body.getvalue().decode("utf-8", "replace"),
        "body_bytes": len(body.getvalue()),
        "error": error,
        "status": curl.getinfo(pycurl.RESPONSE_CODE),
        "connect_status": curl.getinfo(pycurl.HTTP_CONNECTCODE),
        "trace": trace.getvalue().decode("utf-8", "replace"),
    }


def main() -> None:
    """Read the arguments, fetch, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--ca-file", required=True)
    parser.add_argument("--proxy", help="https://HOST:PORT")
    parser.add_argument("--proxy-type", type=int, default=0)
    parser.add_argument("--proxy-ca-file")
    parser.add_argument("--classic", action="store_true", help="fetch the page over TCP")
    parser.add_argument("--proxy-header", action="append", default=[])
    parser.add_argument("--proxy-user", help="USER:PASSWORD for Basic")
    parser.add_argument("--timeout-s", type=float, default=15)
    json.dump(fetch(parser.parse_args()), sys.stdout)


if __name__ == "__main__":
    main()
