"""Owns the tests of the name servers while a split tunnel is up."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.client import dns_settings
from masque_relay.client.dns_settings import DnsSettings
from masque_relay.client.errors import DeviceFailed
from masque_relay.client.ip_journal import ChangedFile, Journal

SERVERS = [ip_address("9.9.9.9"), ip_address("2620:fe::fe")]
BEFORE = "# by hand\nsearch corp.example\nnameserver 192.0.2.53\noptions edns0\n"


@pytest.fixture(autouse=True)
def no_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dns_settings, "_RESOLVED_SOCKET", tmp_path / "no-such-socket")


def settings(directory: Path) -> tuple[DnsSettings, Path, Journal]:
    file = directory / "resolv.conf"
    file.write_text(BEFORE, encoding="utf-8")
    journal = Journal(directory=directory / "run")
    return DnsSettings(SERVERS, journal, resolv_conf=file), file, journal


def test_the_file_gets_our_servers_and_keeps_the_rest(tmp_path: Path) -> None:
    dns, file, _ = settings(tmp_path)
    assert dns.apply("tun0") == str(file)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("nameserver")] == [
        "nameserver 9.9.9.9",
        "nameserver 2620:fe::fe",
    ]
    assert "search corp.example" in lines
    assert "options edns0" in lines


def test_undo_brings_the_file_back_and_may_be_repeated(tmp_path: Path) -> None:
    dns, file, journal = settings(tmp_path)
    dns.apply("tun0")
    dns.undo()
    dns.undo()
    assert file.read_text(encoding="utf-8") == BEFORE
    assert not journal.path.exists()


def test_a_crash_is_cleaned_up_by_the_journal(tmp_path: Path) -> None:
    dns, file, _ = settings(tmp_path)
    dns.apply("tun0")
    assert Journal(directory=tmp_path / "run").undo()
    assert file.read_text(encoding="utf-8") == BEFORE


def test_two_tunnels_do_not_fight_for_the_name_servers(tmp_path: Path) -> None:
    dns, file, journal = settings(tmp_path)
    journal.write(ChangedFile(path=str(file), before="", written="", pid=os.getppid()))
    with pytest.raises(DeviceFailed, match="another tunnel"):
        dns.apply("tun0")
    assert file.read_text(encoding="utf-8") == BEFORE


def test_a_file_that_cannot_be_written_leaves_no_journal(tmp_path: Path) -> None:
    journal = Journal(directory=tmp_path / "run")
    dns = DnsSettings(SERVERS, journal, resolv_conf=tmp_path / "no" / "resolv.conf")
    with pytest.raises(DeviceFailed, match="name servers"):
        dns.apply("tun0")
    assert not journal.path.exists()


def test_systemd_resolved_is_told_per_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns, file, journal = settings(tmp_path)
    said = tmp_path / "said"
    program = tmp_path / "resolvectl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {said}\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "socket").touch()
    monkeypatch.setattr(dns_settings, "_RESOLVED_SOCKET", tmp_path / "socket")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert dns.apply("tun0") == "systemd-resolved"
    assert said.read_text(encoding="utf-8").splitlines() == [
        "dns tun0 9.9.9.9 2620:fe::fe",
        "domain tun0 ~.",
    ]
    assert file.read_text(encoding="utf-8") == BEFORE
    assert not journal.path.exists()


def test_what_resolvectl_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dns, _, _ = settings(tmp_path)
    program = tmp_path / "resolvectl"
    program.write_text("#!/bin/sh\necho refused by policy >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(dns_settings, "_RESOLVED_SOCKET", program)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(DeviceFailed, match="refused by policy"):
        dns.apply("tun0")
