"""Tests of Envoy as a front: it ends the client's HTTP/3 and forwards CONNECT-UDP to the relay."""

from collections.abc import Generator
from pathlib import Path

import pytest
from dnslib import DNSRecord

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import fetch, needs_curl, through
from tests.support.envoy import client_configuration, exchange, front_configuration, run_envoy
from tests.support.relay_process import RunningRelay
from tests.support.site_certificate import SiteCertificate

REPLY_DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def front(
    relay: RunningRelay,
    site_certificate: SiteCertificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[tuple[str, int]]:
    configuration = front_configuration(
        site=site_certificate, origin=relay.address, origin_ca_file=relay.ca_file
    )
    with run_envoy(configuration, tmp_path_factory.mktemp("envoy-front")) as address:
        yield address


def test_datagrams_pass_through_the_front(
    relay: RunningRelay,
    front: tuple[str, int],
    site_certificate: SiteCertificate,
    dns_port: int,
    directory: Path,
    timescale: float,
) -> None:
    configuration = client_configuration(
        proxy=front,
        proxy_ca_file=site_certificate.ca_file,
        target=("127.0.0.1", dns_port),
        headers=[("proxy-authorization", f"Bearer {relay.token}")],
    )
    with run_envoy(configuration, directory / "envoy-client") as address:
        question = DNSRecord.question("relay-test.example").pack()
        answer = exchange(address, question, deadline_s=REPLY_DEADLINE_S * timescale)
    assert answer is not None
    assert str(DNSRecord.parse(answer).a.rdata) == "192.0.2.77"


@pytest.mark.interop("Envoy through Envoy, to us by HTTP/3", "CONNECT-UDP", "3")
def test_an_http3_page_comes_through_the_front_with_datagrams(
    relay: RunningRelay,
    front: tuple[str, int],
    site_certificate: SiteCertificate,
    site: HttpSite,
    directory: Path,
) -> None:
    configuration = client_configuration(
        proxy=front,
        proxy_ca_file=site_certificate.ca_file,
        target=("127.0.0.1", site.port),
        headers=[("proxy-authorization", f"Bearer {relay.token}")],
    )
    with run_envoy(configuration, directory / "envoy-client") as (host, port):
        fetched = fetch(f"https://{host}:{port}/", ca_file=site.certificate.ca_file)
    assert fetched.body == GREETING, fetched.trace


def test_a_refusal_passes_through_the_front(
    relay: RunningRelay,
    front: tuple[str, int],
    site_certificate: SiteCertificate,
    site: HttpSite,
) -> None:
    needs_curl()
    fetched = fetch(
        f"https://127.0.0.1:{site.port}/",
        ca_file=site.certificate.ca_file,
        arguments=through(
            front, site_certificate.ca_file, "Proxy-Authorization: Bearer no.good.one"
        ),
    )
    assert "CONNECT-UDP Response Status 407" in fetched.trace


@pytest.mark.interop(
    "libcurl through Envoy, to us by HTTP/3",
    "CONNECT-UDP",
    "3",
    cannot="Envoy resets a client over HTTP/3 that sends capsules instead of datagrams",
)
def test_a_client_that_the_front_cannot_serve_leaves_its_neighbour_alone(
    relay: RunningRelay,
    front: tuple[str, int],
    site_certificate: SiteCertificate,
    site: HttpSite,
    dns_port: int,
    directory: Path,
    timescale: float,
) -> None:
    """Envoy resets the capsule-only client by itself, and may pool both on one connection to us."""
    configuration = client_configuration(
        proxy=front,
        proxy_ca_file=site_certificate.ca_file,
        target=("127.0.0.1", dns_port),
        headers=[("proxy-authorization", f"Bearer {relay.token}")],
    )
    question = DNSRecord.question("relay-test.example").pack()
    with run_envoy(configuration, directory / "envoy-client") as address:
        assert exchange(address, question, deadline_s=REPLY_DEADLINE_S * timescale)
        fetched = fetch(
            f"https://127.0.0.1:{site.port}/",
            ca_file=site.certificate.ca_file,
            arguments=[
                *through(front, site_certificate.ca_file, f"Authorization: Bearer {relay.token}"),
                "--timeout-s=5",
            ],
        )
        assert "CONNECT-UDP Response Status 200" in fetched.trace
        assert exchange(address, question, deadline_s=REPLY_DEADLINE_S * timescale)
