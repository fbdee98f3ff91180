"""Owns the tests of `ghostctl demo`: a relay, a DNS answer, and a page by QUIC inside QUIC."""

import json

from tests.integration.client.commands import ghostctl


def test_the_demo_works_and_shows_its_figures() -> None:
    done = ghostctl("demo")
    assert done.returncode == 0, done.stderr
    assert "192.0.2.80" in done.stdout
    assert "200, 200077 bytes" in done.stdout
    assert "bytes fit" in done.stdout


def test_the_demo_tells_scripts_the_same() -> None:
    done = ghostctl("demo", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert told["page_status"] == 200
    # every byte of the page came through the tunnel, in datagrams that fit
    assert told["page"]["received_bytes"] > told["page_bytes"]
    assert told["page"]["received_datagrams"] > told["page_bytes"] // told["max_payload_bytes"]
    assert told["dns"]["received_datagrams"] == 1
