"""masque-go's client through the relay: CONNECT-UDP over HTTP/3 datagrams."""

import pytest
from dnslib import DNSRecord

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import fetch
from tests.support.envoy import exchange
from tests.support.masque_go import run_masque_go
from tests.support.relay_process import RunningRelay

REPLY_DEADLINE_S = 10.0


@pytest.mark.interop("masque-go", "CONNECT-UDP", "3")
def test_a_dns_question_is_answered(relay: RunningRelay, dns_port: int, timescale: float) -> None:
    with run_masque_go(relay, ("127.0.0.1", dns_port)) as address:
        question = DNSRecord.question("relay-test.example").pack()
        answer = exchange(address, question, deadline_s=REPLY_DEADLINE_S * timescale)
    assert answer is not None
    assert str(DNSRecord.parse(answer).a.rdata) == "192.0.2.77"


@pytest.mark.interop("masque-go", "CONNECT-UDP", "3")
def test_an_http3_page_comes_through(relay: RunningRelay, site: HttpSite) -> None:
    content = bytes(range(32, 127)) * 5_000
    (site.root / "masque-go.txt").write_bytes(content)
    with run_masque_go(relay, ("127.0.0.1", site.port)) as (host, port):
        assert fetch(f"https://{host}:{port}/", ca_file=site.certificate.ca_file).body == GREETING
        url = f"https://{host}:{port}/masque-go.txt"
        assert fetch(url, ca_file=site.certificate.ca_file).body.encode() == content


@pytest.mark.parametrize(
    ("token", "target", "status"),
    [
        ("", "127.0.0.1:53", 401),
        ("no.good.one", "127.0.0.1:53", 407),
        (None, "169.254.169.254:80", 403),
        (None, "no-such-host.invalid:53", 502),
    ],
    ids=["no token", "a bad token", "a forbidden target", "an unknown target"],
)
def test_a_refusal_is_told(
    relay: RunningRelay, token: str | None, target: str, status: int
) -> None:
    host, _, port = target.rpartition(":")
    with (
        pytest.raises(ConnectionRefusedError, match=f"status {status}"),
        run_masque_go(relay, (host, int(port)), token=token),
    ):
        pass
