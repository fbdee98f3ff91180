"""Tests of libcurl as a foreign CONNECT-UDP client over HTTP/1.1 and HTTP/2 (RFC 9298)."""

import hashlib
import json
import random
import subprocess
import sys

import pytest

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import ROOT, Fetched
from tests.support.relay_process import RunningRelay

PAGE_BYTES = 1_000_000
PROXY_TYPES = {"HTTP/1.1": 2, "HTTP/2": 3}


@pytest.fixture(params=PROXY_TYPES)
def version(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("pycurl", reason="needs the interop extra (pycurl): .ci/run installs it")
    name: str = request.param
    return name


def get(
    relay: RunningRelay,
    site: HttpSite,
    version: str,
    *arguments: str,
    path: str = "/",
    host: str = "127.0.0.1",
) -> Fetched:
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.pycurl_fetch",
            f"https://{host}:{site.port}{path}",
            f"--ca-file={site.certificate.ca_file}",
            f"--proxy=https://{relay.host}:{relay.port}",
            f"--proxy-type={PROXY_TYPES[version]}",
            f"--proxy-ca-file={relay.ca_file}",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return Fetched(**json.loads(process.stdout))


def bearer(relay: RunningRelay) -> str:
    return f"--proxy-header=Proxy-Authorization: Bearer {relay.token}"


@pytest.mark.interop("libcurl", "CONNECT-UDP", "{version}")
def test_curl_fetches_an_http3_page_through_the_relay(
    relay: RunningRelay, site: HttpSite, version: str
) -> None:
    fetched = get(relay, site, version, bearer(relay))
    accepted = 101 if version == "HTTP/1.1" else 200

    assert fetched.body == GREETING, fetched.trace
    assert f"tunnel established, response {accepted}" in fetched.trace
    assert "capsule-protocol: ?1" in fetched.trace
    assert 'next-hop="127.0.0.1' in fetched.trace


@pytest.mark.interop("libcurl", "CONNECT-UDP", "{version}")
def test_a_large_page_arrives_whole(relay: RunningRelay, site: HttpSite, version: str) -> None:
    content = random.Random(7).randbytes(PAGE_BYTES // 2).hex()
    (site.root / "large-tcp.txt").write_text(content)

    fetched = get(relay, site, version, bearer(relay), path="/large-tcp.txt")

    assert fetched.body_bytes == PAGE_BYTES, fetched.trace[-2_000:]
    digest = hashlib.sha256(content.encode()).digest()
    assert hashlib.sha256(fetched.body.encode()).digest() == digest


@pytest.mark.parametrize(
    ("header", "status", "challenge"),
    [
        (None, 401, "www-authenticate: Bearer"),
        ("Proxy-Authorization: Bearer not.a.token", 407, "proxy-authenticate: Bearer"),
    ],
    ids=["no credential", "a bad proxy token"],
)
def test_curl_without_a_good_credential_is_refused_and_told_so(
    relay: RunningRelay,
    site: HttpSite,
    version: str,
    header: str | None,
    status: int,
    challenge: str,
) -> None:
    arguments = () if header is None else (f"--proxy-header={header}",)
    fetched = get(relay, site, version, *arguments)

    assert fetched.body == ""
    assert fetched.error is not None
    assert fetched.connect_status == status or f" {status}" in fetched.trace, fetched.trace
    assert challenge in fetched.trace.lower().replace("bearer", "Bearer"), fetched.trace


def test_an_unreachable_target_is_told_in_proxy_status(
    relay: RunningRelay, site: HttpSite, version: str
) -> None:
    fetched = get(relay, site, version, bearer(relay), host="no-such-host.invalid")

    assert fetched.error is not None
    assert "502" in fetched.trace
    assert "error=dns_error" in fetched.trace
