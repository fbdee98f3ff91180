"""Tests of libcurl as a foreign CONNECT-UDP client: HTTP/3 with capsules, never datagrams."""

import base64
import hashlib
import random
from pathlib import Path

import pytest

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import Fetched, fetch, finish_fetch, needs_curl, start_fetch, through
from tests.support.relay_process import RunningRelay, add_user, run_changed_relay

PAGE_BYTES = 2_000_000


@pytest.fixture(autouse=True)
def _curl() -> None:
    needs_curl()


def get(relay: RunningRelay, site: HttpSite, *headers: str, path: str = "/") -> Fetched:
    return fetch(
        f"https://127.0.0.1:{site.port}{path}",
        ca_file=site.certificate.ca_file,
        arguments=through(relay.address, relay.ca_file, *headers),
    )


def bearer(relay: RunningRelay) -> str:
    return f"Proxy-Authorization: Bearer {relay.token}"


@pytest.mark.interop("libcurl", "CONNECT-UDP", "3")
def test_curl_fetches_an_http3_page_through_the_relay(relay: RunningRelay, site: HttpSite) -> None:
    fetched = get(relay, site, bearer(relay))
    assert fetched.body == GREETING, fetched.trace
    assert "CONNECT-UDP Response Status 200" in fetched.trace


def test_the_accepting_head_names_the_next_hop(relay: RunningRelay, site: HttpSite) -> None:
    """RFC 9297 section 3.4 and RFC 9209 section 2.1.2, as a foreign client sees them."""
    fetched = get(relay, site, bearer(relay))
    assert "capsule-protocol: ?1" in fetched.trace
    assert 'next-hop="127.0.0.1' in fetched.trace


def test_authorization_is_as_good_as_proxy_authorization(
    relay: RunningRelay, site: HttpSite
) -> None:
    fetched = get(relay, site, f"Authorization: Bearer {relay.token}")
    assert fetched.body == GREETING, fetched.trace


@pytest.mark.interop("libcurl", "CONNECT-UDP", "3")
def test_a_large_page_arrives_whole_over_capsules(relay: RunningRelay, site: HttpSite) -> None:
    content = base64.b64encode(random.Random(3).randbytes(PAGE_BYTES * 3 // 4)).decode()
    (site.root / "large.txt").write_text(content)
    fetched = get(relay, site, bearer(relay), path="/large.txt")
    assert fetched.body_bytes == len(content), fetched.trace[-2000:]
    assert (
        hashlib.sha256(fetched.body.encode()).digest() == hashlib.sha256(content.encode()).digest()
    )


def test_several_curls_at_once_do_not_disturb_each_other(
    relay: RunningRelay, site: HttpSite
) -> None:
    arguments = through(relay.address, relay.ca_file, bearer(relay))
    url = f"https://127.0.0.1:{site.port}/"
    fetches = [
        start_fetch(url, ca_file=site.certificate.ca_file, arguments=arguments) for _ in range(4)
    ]
    assert [finish_fetch(process).body for process in fetches] == [GREETING] * 4


@pytest.mark.parametrize(
    ("headers", "status", "challenge"),
    [
        ((), 401, "www-authenticate: Bearer"),
        (("Authorization: Bearer not.a.token",), 401, "www-authenticate: Bearer"),
        (("Proxy-Authorization: Bearer not.a.token",), 407, "proxy-authenticate: Bearer"),
        (("Proxy-Authorization: Basic !!!",), 407, "proxy-authenticate: Bearer"),
    ],
    ids=["no credential", "a bad token", "a bad proxy token", "a broken header"],
)
def test_curl_without_a_good_credential_is_refused_and_told_so(
    relay: RunningRelay, site: HttpSite, headers: tuple[str, ...], status: int, challenge: str
) -> None:
    fetched = get(relay, site, *headers)
    assert fetched.body == ""
    assert fetched.error is not None
    assert f"CONNECT-UDP Response Status {status}" in fetched.trace, fetched.trace
    assert challenge in fetched.trace
    assert get(relay, site, bearer(relay)).body == GREETING


def test_an_unreachable_target_is_told_in_proxy_status(relay: RunningRelay, site: HttpSite) -> None:
    fetched = fetch(
        "https://no-such-host.invalid/",
        ca_file=site.certificate.ca_file,
        arguments=through(relay.address, relay.ca_file, bearer(relay)),
    )
    assert "CONNECT-UDP Response Status 502" in fetched.trace
    assert "error=dns_error" in fetched.trace


def test_basic_from_libcurl_itself_is_refused_as_malformed_and_counted(
    relay: RunningRelay, site: HttpSite
) -> None:
    """RFC 9114 section 4.3: libcurl 8.23 writes :protocol after the header that Basic makes."""
    malformed = "ghostwire_relay_http_requests_malformed_total"
    before = relay.metrics()[malformed]
    fetched = fetch(
        f"https://127.0.0.1:{site.port}/",
        ca_file=site.certificate.ca_file,
        arguments=[*through(relay.address, relay.ca_file), "--proxy-user", "alice:secret"],
    )
    assert fetched.error is not None
    assert relay.metrics()[malformed] == before + 1


@pytest.mark.interop("libcurl", "CONNECT-UDP", "3")
def test_a_password_is_as_good_as_a_token(site: HttpSite, directory: Path) -> None:
    credential = base64.b64encode(b"dev:correct horse").decode()
    with run_changed_relay(directory, add_user("dev", "correct horse")) as relay:
        fetched = get(relay, site, f"Proxy-Authorization: Basic {credential}")
        assert fetched.body == GREETING, fetched.trace
        wrong = base64.b64encode(b"dev:wrong horse").decode()
        refused = get(relay, site, f"Proxy-Authorization: Basic {wrong}")
    assert "CONNECT-UDP Response Status 407" in refused.trace
