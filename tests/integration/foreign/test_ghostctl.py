"""Tests of the line that `make run` prints, with programs that are not ours at either end of it."""

from pathlib import Path

from dnslib import DNSRecord

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import fetch
from tests.support.envoy import exchange
from tests.support.ghostctl_tunnel import run_tunnel
from tests.support.relay_process import RunningRelay

REPLY_DEADLINE_S = 10.0


def test_a_dns_question_goes_through_ghostctl_and_the_relay(
    relay: RunningRelay, dns_port: int, directory: Path, timescale: float
) -> None:
    with run_tunnel(relay, ("127.0.0.1", dns_port), directory) as address:
        question = DNSRecord.question("relay-test.example").pack()
        answer = exchange(address, question, deadline_s=REPLY_DEADLINE_S * timescale)
    assert answer is not None
    assert str(DNSRecord.parse(answer).a.rdata) == "192.0.2.77"


def test_an_http3_page_goes_through_ghostctl_and_the_relay(
    relay: RunningRelay, site: HttpSite, directory: Path
) -> None:
    content = bytes(range(32, 127)) * 5_000
    (site.root / "ghostctl.txt").write_bytes(content)
    with run_tunnel(relay, ("127.0.0.1", site.port), directory) as (host, port):
        url = f"https://{host}:{port}/"
        assert fetch(url, ca_file=site.certificate.ca_file).body == GREETING
        fetched = fetch(f"{url}ghostctl.txt", ca_file=site.certificate.ca_file)
    assert fetched.body.encode() == content
