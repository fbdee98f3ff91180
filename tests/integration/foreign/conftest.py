"""Owns what the foreign-peer tests share: a relay, an HTTP/3 site and a DNS server, all real."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.caddy import HttpSite, can_do_http3, run_caddy
from tests.support.curl import needs_curl
from tests.support.dns_server import run_dns_server
from tests.support.relay_process import RunningRelay, run_relay
from tests.support.site_certificate import SiteCertificate, write_site_certificate


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningRelay]:
    with run_relay(tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.fixture(scope="session")
def site_certificate(tmp_path_factory: pytest.TempPathFactory) -> SiteCertificate:
    return write_site_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, site_certificate: SiteCertificate
) -> Generator[HttpSite]:
    """Caddy; checked to speak HTTP/3 without the relay, so that a failure is the relay's."""
    needs_curl()
    with run_caddy(tmp_path_factory.mktemp("caddy"), site_certificate) as running:
        assert can_do_http3(f"https://127.0.0.1:{running.port}/", site_certificate.ca_file)
        yield running


@pytest.fixture(scope="session")
def dns_port() -> Generator[int]:
    with run_dns_server({"relay-test.example": "192.0.2.77"}) as port:
        yield port


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path
