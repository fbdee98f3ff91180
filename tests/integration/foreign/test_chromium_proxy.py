"""Chromium reads pages through the relay: classic CONNECT with a password, and `ghostctl proxy`."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from masque_relay.control.auth.basic import hash_password
from tests.support.caddy import GREETING, HttpSite
from tests.support.chromium import needs_chromium
from tests.support.chromium_proxy import read_page
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.method_trials import TRIAL_POLICY
from tests.support.processes import GHOSTCTL, run_process

NAME, PASSWORD = "alice", "correct horse battery staple"
PAGE_GREETING = GREETING.replace("HTTP/3.0", "HTTP/2.0")
TO_THE_RELAY = {"HTTP/2": (), "HTTP/1.1": ("--disable-http2",)}

pytestmark = [needs_chromium, pytest.mark.timeout(150), pytest.mark.xdist_group("chromium")]


@pytest.fixture(scope="module")
def relay_with_password(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    directory = tmp_path_factory.mktemp("relay-with-password")
    users = directory / "users.toml"
    users.write_text(f'[user.{NAME}]\npassword_hash = "{hash_password(PASSWORD)}"\n')
    config = f'\n[gate.basic]\nusers_file = "{users}"\n'
    with managed_relay(directory, policy=TRIAL_POLICY, config=config) as relay:
        yield relay


def transports(relay: ManagedRelay) -> set[str]:
    """The HTTP versions over which tunnels were opened."""
    lines = (relay.state.directory / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {one["transport"] for one in records if one.get("method") == "connect-tcp"}


@pytest.mark.interop("Chromium", "CONNECT", "{version}")
@pytest.mark.parametrize("version", TO_THE_RELAY)
async def test_a_page_comes_by_classic_connect_with_a_password(
    relay_with_password: ManagedRelay, site: HttpSite, tmp_path: Path, version: str
) -> None:
    seen = await read_page(
        f"https://127.0.0.1:{site.port}/",
        tmp_path / "profile",
        proxy=f"https://127.0.0.1:{relay_with_password.port}",
        credentials=(NAME, PASSWORD),
        flags=TO_THE_RELAY[version],
    )
    assert seen.text == (PAGE_GREETING if version == "HTTP/2" else GREETING.replace("3.0", "1.1"))
    assert seen.asked_by == ("Proxy basic",)
    assert ("h2" if version == "HTTP/2" else "h1") in transports(relay_with_password)


async def test_a_wrong_password_opens_nothing(
    relay_with_password: ManagedRelay, site: HttpSite, tmp_path: Path
) -> None:
    seen = await read_page(
        f"https://127.0.0.1:{site.port}/",
        tmp_path / "profile",
        proxy=f"https://127.0.0.1:{relay_with_password.port}",
        credentials=(NAME, "wrong"),
    )
    assert GREETING[:5] not in seen.text
    assert seen.asked_by == ("Proxy basic", "Proxy basic")


@pytest.mark.interop("Chromium through ghostctl proxy", "CONNECT", "3")
async def test_a_page_comes_through_ghostctl_proxy_without_one(
    relay_with_password: ManagedRelay, site: HttpSite, tmp_path: Path
) -> None:
    relay, ready_file = relay_with_password, tmp_path / "proxy.json"
    command = [*GHOSTCTL, "proxy", "--relay", relay.url, "--ca", str(relay.ca_file)]
    command += ["--token-file", str(relay.token_file), "--listen", "127.0.0.1:0"]
    with run_process(
        [*command, "--ready-file", str(ready_file)],
        log=tmp_path / "proxy.log",
        ready=lambda: json.loads(ready_file.read_text()) if ready_file.exists() else None,
        exit_code=0,
    ) as ready:
        seen = await read_page(
            f"https://127.0.0.1:{site.port}/",
            tmp_path / "profile",
            proxy=f"socks5://{ready['socks']}",
        )
    assert seen.text == PAGE_GREETING
    assert seen.asked_by == ()
