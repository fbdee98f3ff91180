"""Owns one HTTP/3 fetch by libcurl: ``python -m tests.support.curl_fetch`` prints one JSON object.

A process of its own, because libcurl is foreign compiled code: it may block, and it may crash, and
neither may take the test run with it.
"""

import argparse
import io
import json
import sys

HTTP_VERSION_3_ONLY = 31
PROXYTYPE_HTTPS3 = 8  # libcurl 8.22 and later: CONNECT-UDP over HTTP/3


def fetch(options: argparse.Namespace) -> dict[str, object]:
    """Fetch one page and return what happened."""
    from curl_cffi import Curl, CurlError, CurlInfo, CurlOpt  # noqa: PLC0415  # the interop extra

    curl = Curl()
    body, trace = io.BytesIO(), io.BytesIO()
    curl.setopt(CurlOpt.URL, options.url.encode())
    curl.setopt(CurlOpt.HTTP_VERSION, 0 if options.classic else HTTP_VERSION_3_ONLY)
    curl.setopt(CurlOpt.CAINFO, options.ca_file)
    curl.setopt(CurlOpt.WRITEDATA, body)
    curl.setopt(CurlOpt.TIMEOUT_MS, int(options.timeout_s * 1000))
    curl.setopt(CurlOpt.VERBOSE, 1)
    curl.setopt(CurlOpt.DEBUGFUNCTION, lambda kind, data: trace.write(data) if kind <= 2 else None)
    if options.resolve:
        curl.setopt(CurlOpt.RESOLVE, options.resolve)
    if options.proxy:
        curl.setopt(CurlOpt.PROXY, options.proxy.encode())
        curl.setopt(CurlOpt.PROXYTYPE, PROXYTYPE_HTTPS3)
        curl.setopt(CurlOpt.HTTPPROXYTUNNEL, 1)
        curl.setopt(CurlOpt.PROXY_CAINFO, options.proxy_ca_file)
        if options.proxy_header:
            curl.setopt(CurlOpt.PROXYHEADER, [line.encode() for line in options.proxy_header])
        if options.proxy_user:
            curl.setopt(CurlOpt.PROXYUSERPWD, options.proxy_user.encode())
    error = None
    try:
        for _ in range(options.repeat):
            body.seek(0)
            body.truncate()
            curl.perform()
    except CurlError as failure:
        error = int(failure.code)
    return {
        "body": body.getvalue().decode("utf-8", "replace"),
        "body_bytes": len(body.getvalue()),
        "error": error,
        "status": curl.getinfo(CurlInfo.RESPONSE_CODE),
        "connect_status": curl.getinfo(CurlInfo.HTTP_CONNECTCODE),
        "trace": trace.getvalue().decode("utf-8", "replace"),
    }


def main() -> None:
    """Read the arguments, fetch, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--ca-file", required=True)
    parser.add_argument("--resolve", action="append", default=[], help="HOST:PORT:ADDRESS")
    parser.add_argument("--proxy", help="https://HOST:PORT")
    parser.add_argument("--proxy-ca-file")
    parser.add_argument("--classic", action="store_true", help="fetch the page over TCP")
    parser.add_argument("--proxy-header", action="append", default=[])
    parser.add_argument("--proxy-user", help="USER:PASSWORD for Basic")
    parser.add_argument("--timeout-s", type=float, default=15)
    parser.add_argument("--repeat", type=int, default=1)
    json.dump(fetch(parser.parse_args()), sys.stdout)


if __name__ == "__main__":
    main()
