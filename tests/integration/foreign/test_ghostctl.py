"""Tests of the line that `make run` prints, with programs that are not ours at either end of it."""

import json
import sys
from pathlib import Path

import pytest
from dnslib import DNSRecord

from tests.support.caddy import GREETING, HttpSite
from tests.support.curl import fetch
from tests.support.envoy import exchange
from tests.support.ghostctl_tunnel import run_tunnel
from tests.support.processes import run_process
from tests.support.relay_process import RunningRelay

REPLY_DEADLINE_S = 10.0
BARE_PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
"""That of a terminal in which nobody activated anything."""


def test_a_dns_question_goes_through_ghostctl_and_the_relay(
    relay: RunningRelay, dns_port: int, directory: Path, timescale: float
) -> None:
    with run_tunnel(relay, ("127.0.0.1", dns_port), directory) as address:
        question = DNSRecord.question("relay-test.example").pack()
        answer = exchange(address, question, deadline_s=REPLY_DEADLINE_S * timescale)
    assert answer is not None
    assert str(DNSRecord.parse(answer).a.rdata) == "192.0.2.77"


@pytest.mark.interop("libcurl through ghostctl tunnel", "CONNECT-UDP", "3")
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


def test_the_printed_line_works_in_another_terminal_as_it_stands(
    site: HttpSite, dns_port: int, directory: Path, timescale: float
) -> None:
    """Only its last word is changed: where to listen, and targets that need no Internet."""
    ghostctl = Path(sys.executable).with_name("ghostctl")
    log, tunnel_ready = directory / "relay.log", directory / "tunnel.json"
    command = [str(ghostctl), "relay", "run", "--dev", "--state-dir", str(directory / "state")]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with run_process(
        command,
        log=log,
        ready=lambda: "Ctrl-C drains" in log.read_text(encoding="utf-8") or None,
        environment=BARE_PATH,
        exit_code=0,
    ):
        printed = log.read_text(encoding="utf-8")
        (line,) = [line for line in printed.splitlines() if " tunnel udp --relay " in line]
        line, _, forward = line.rpartition(" ")
        assert forward == "127.0.0.1:5353=1.1.1.1:53"
        forwards = [f"127.0.0.1:0=127.0.0.1:{port}" for port in (dns_port, site.port)]
        with run_process(
            ["sh", "-c", f"exec {line} --ready-file {tunnel_ready} {' '.join(forwards)}"],
            log=directory / "tunnel.log",
            ready=lambda: tunnel_ready.exists() or None,
            environment=BARE_PATH,
            exit_code=0,
        ):
            told = json.loads(tunnel_ready.read_text(encoding="utf-8"))["forwards"]
            ports = [int(forward["listen"].rpartition(":")[2]) for forward in told]
            question = DNSRecord.question("relay-test.example").pack()
            deadline_s = REPLY_DEADLINE_S * timescale
            answer = exchange(("127.0.0.1", ports[0]), question, deadline_s=deadline_s)
            page = fetch(f"https://127.0.0.1:{ports[1]}/", ca_file=site.certificate.ca_file)
    assert answer is not None
    assert str(DNSRecord.parse(answer).a.rdata) == "192.0.2.77"
    assert page.body == GREETING
