"""Owns the tests of what `ghostctl tunnel ip` refuses before anything is tried, and of words."""

import json
from ipaddress import ip_network
from pathlib import Path

import pytest
from click.testing import CliRunner

from masque_relay.cli.main import main
from masque_relay.cli.tunnel_ip_report import IpTunnelReport
from masque_relay.client.errors import ConnectionLost
from masque_relay.client.ip_events import (
    AddressesChanged,
    IpEvent,
    Ipv6Impossible,
    NotAdvertised,
    TunnelDown,
    TunnelUp,
)

RELAY = ("tunnel", "ip", "--relay", "https://relay.example")
UP = TunnelUp(
    device="ghostwire0",
    addresses=(ip_network("10.71.0.2/32"),),
    routes=(ip_network("10.0.0.0/8"),),
    mtu_bytes=1440,
    http_version="3",
    name_servers=None,
)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "no --route"),
        (("--route", "10.0.0.1/8"), "is no network"),
        (("--route", "10.0.0.0/8", "--exclude", "everything"), "is no network"),
        (("--route", "10.0.0.0/8", "--dns", "dns.example"), "is no IP address"),
        (("--route", "10.0.0.0/8", "--device", "a-name-that-is-too-long"), "is no device name"),
        (("--route", "10.0.0.0/8", "--device", "a/b"), "is no device name"),
        (("--route", "10.0.0.0/8", "--ip-template", "nowhere"), "template"),
    ],
)
def test_bad_arguments_are_refused_with_a_hint(arguments: tuple[str, ...], complaint: str) -> None:
    done = CliRunner().invoke(main, [*RELAY, *arguments])
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert "next: " in done.stderr


def test_undo_needs_no_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masque_relay.client.ip_journal.Journal.undo", lambda _: True)
    monkeypatch.setattr(
        "masque_relay.client.ip_journal.Journal.is_of_live_process", lambda _: False
    )
    done = CliRunner().invoke(main, ["tunnel", "ip", "--undo"])
    assert done.exit_code == 0
    assert "as before" in done.stdout


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (TunnelDown(error=ConnectionLost("gone"), retry_in_s=0.5), "gone; trying again in 0.5 s"),
        (NotAdvertised(networks=(ip_network("10.1.0.0/16"),)), "does not lead to 10.1.0.0/16"),
        (
            AddressesChanged(before=UP.addresses, now=(ip_network("10.71.0.9/32"),)),
            "our addresses changed to 10.71.0.9/32",
        ),
        (Ipv6Impossible(mtu_bytes=1168), "IPv6 needs 1280"),
    ],
)
def test_what_goes_wrong_is_said_on_stderr_or_as_json(
    event: IpEvent, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    IpTunnelReport("https://r", as_json=False, ready_file=None).event(event)
    assert said in capfd.readouterr().err
    IpTunnelReport("https://r", as_json=True, ready_file=None).event(event)
    assert said in json.loads(capfd.readouterr().out)["message"]


def test_ready_is_said_once_and_written_for_scripts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ready_file = tmp_path / "ready.json"
    report = IpTunnelReport("https://r", as_json=False, ready_file=ready_file)
    report.event(UP)
    first = capfd.readouterr().out
    assert "ready: 10.0.0.0/8 through https://r by HTTP/3" in first
    assert "ghostwire0, 10.71.0.2/32, MTU 1440" in first
    assert json.loads(ready_file.read_text(encoding="utf-8"))["device"] == "ghostwire0"
    report.event(UP)
    assert "up again: " in capfd.readouterr().out
