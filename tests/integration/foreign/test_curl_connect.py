"""libcurl and Debian's curl as foreign clients of classic CONNECT (RFC 9110 section 9.3.6)."""

import hashlib
import json
import random
import shutil
import subprocess
import sys

import pytest

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import ROOT, Fetched, fetch, needs_curl, through
from tests.support.relay_process import RunningRelay

PAGE_BYTES = 4_000_000
WINDOW_OF_LIBCURL_BYTES = 1_000_000
TCP_GREETING = GREETING.replace("HTTP/3.0", "HTTP/2.0")
PROXY_TYPES = {"HTTP/1.1": 2, "HTTP/2": 3}


@pytest.fixture(params=PROXY_TYPES)
def version(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("pycurl", reason="needs the interop extra (pycurl): .ci/run installs it")
    name: str = request.param
    return name


def get(
    relay: RunningRelay, site: HttpSite, version: str, *arguments: str, place: str = ""
) -> Fetched:
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.pycurl_fetch",
            f"https://{place or f'127.0.0.1:{site.port}/'}",
            "--classic",
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


def bearer_line(relay: RunningRelay) -> str:
    return f"Proxy-Authorization: Bearer {relay.token}"


def bearer(relay: RunningRelay) -> str:
    return f"--proxy-header={bearer_line(relay)}"


def refused_with(fetched: Fetched, status: int) -> bool:
    """Over HTTP/2 libcurl tells the status of a refused CONNECT in its trace only."""
    return fetched.connect_status == status or f"Response Status {status}" in fetched.trace


@pytest.mark.interop("libcurl", "CONNECT", "{version}")
def test_libcurl_fetches_a_page_by_classic_connect(
    relay: RunningRelay, site: HttpSite, version: str
) -> None:
    fetched = get(relay, site, version, bearer(relay))

    assert fetched.body == TCP_GREETING, fetched.trace
    assert 'next-hop="127.0.0.1' in fetched.trace
    assert "capsule-protocol" not in fetched.trace


@pytest.mark.interop("libcurl", "CONNECT", "{version}")
def test_a_large_page_arrives_whole(relay: RunningRelay, site: HttpSite, version: str) -> None:
    content = random.Random(8).randbytes(PAGE_BYTES // 2).hex()
    (site.root / "large-connect.txt").write_text(content)

    fetched = get(
        relay, site, version, bearer(relay), place=f"127.0.0.1:{site.port}/large-connect.txt"
    )

    assert fetched.body_bytes == PAGE_BYTES, fetched.trace[-2_000:]
    digest = hashlib.sha256(content.encode()).digest()
    assert hashlib.sha256(fetched.body.encode()).digest() == digest


def test_libcurl_without_a_credential_hears_407(
    relay: RunningRelay, site: HttpSite, version: str
) -> None:
    fetched = get(relay, site, version)

    assert fetched.body == ""
    assert refused_with(fetched, 407), fetched.trace
    assert "proxy-authenticate: bearer" in fetched.trace.lower()


def test_target_that_refuses_is_told_in_proxy_status(
    relay: RunningRelay, site: HttpSite, version: str
) -> None:
    fetched = get(relay, site, version, bearer(relay), place="127.0.0.1:1/")

    assert refused_with(fetched, 502), fetched.trace
    assert "error=connection_refused" in fetched.trace


@pytest.mark.interop("libcurl", "CONNECT", "3")
def test_libcurl_fetches_a_page_by_classic_connect_over_http3(
    relay: RunningRelay, site: HttpSite
) -> None:
    """Of less than the 1 MiB after which libcurl at times forgets to open its HTTP/2 window."""
    needs_curl()
    page = "x" * WINDOW_OF_LIBCURL_BYTES
    (site.root / "large-connect3.txt").write_text(page)
    arguments = [*through(relay.address, relay.ca_file, bearer_line(relay)), "--classic"]
    url = f"https://127.0.0.1:{site.port}/large-connect3.txt"
    fetched = fetch(url, ca_file=site.certificate.ca_file, arguments=arguments)
    assert fetched.body == page, fetched.trace[-2_000:]
    assert "CONNECT phase completed for HTTP/3 proxy" in fetched.trace


@pytest.mark.interop("curl of Debian", "CONNECT", "1.1")
def test_debians_curl_fetches_a_page_by_classic_connect(
    relay: RunningRelay, site: HttpSite
) -> None:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("needs curl: .ci/run installs it")
    process = subprocess.run(
        [
            program,
            "--silent",
            "--show-error",
            "--cacert",
            f"{site.certificate.ca_file}",
            "--proxy",
            f"https://{relay.host}:{relay.port}",
            "--proxy-cacert",
            f"{relay.ca_file}",
            "--proxy-header",
            f"Proxy-Authorization: Bearer {relay.token}",
            f"https://127.0.0.1:{site.port}/",
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert process.stdout == TCP_GREETING, process.stderr
