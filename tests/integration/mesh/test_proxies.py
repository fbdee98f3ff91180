"""Sessions through the proxies of networks that let nothing else out."""

import asyncio
import gc
import json
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.errors import ClientError, TunnelRefused
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.ways import ways_to
from masque_relay.wire.ghostwire import ChannelKind
from tests.integration.client.commands import WAIT_S, ghostctl, way_to
from tests.integration.mesh.proxies import PASSWORD, USER, RunningProxy, tinyproxy
from tests.support.ghostwire_world import Recorder
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.mesh_peer import MeshPeer
from tests.support.processes import GHOSTCTL, start_process
from tests.support.udp_echo import run_udp_echo

KINDS = [WayKind.WEBSOCKET, WayKind.HTTPS]


@contextmanager
def socks_proxy(relay: ManagedRelay, directory: Path) -> Generator[RunningProxy]:
    """Run our own SOCKS5 proxy, which goes straight to every target."""
    ready, login = directory / "socks.json", directory / "socks.login"
    login.write_text(f"{USER}:{PASSWORD}\n")
    log = directory / "socks.log"
    command = [*GHOSTCTL, "proxy", *way_to(relay), "--listen", "127.0.0.1:0"]
    more = ["--default", "direct", "--user-file", str(login), "--ready-file", str(ready)]
    with start_process(
        [*command, *more],
        log=log,
        ready=lambda: json.loads(ready.read_text()) if ready.exists() else None,
    ) as (_, told):
        yield RunningProxy(int(told["socks"].rpartition(":")[2]), log, scheme="socks5h")


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with managed_relay(tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.fixture(scope="module", params=["tinyproxy", "socks"])
def proxy(
    request: pytest.FixtureRequest, relay: ManagedRelay, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    directory = tmp_path_factory.mktemp("proxy")
    running = (
        tinyproxy(directory) if request.param == "tinyproxy" else socks_proxy(relay, directory)
    )
    with running as made:
        yield made


def openers(relay: ManagedRelay, proxy: str) -> dict[WayKind, Any]:
    address = RelayAddress.parse(relay.url)
    options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
    return dict(ways_to(address, options, proxy=proxy))


@pytest.mark.parametrize("kind", KINDS)
async def test_session_works_through_a_proxy_that_wants_a_password(
    relay: ManagedRelay, proxy: RunningProxy, kind: WayKind
) -> None:
    ways = openers(relay, proxy.url())
    assert set(ways) == set(KINDS), "the others would go past the proxy"
    peer, call = MeshPeer(), Recorder()
    way = await ways[kind](partial(peer.make, name=relay.host))
    assert way.run is not None
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(WAIT_S):
        running = tasks.create_task(way.run())
        await peer.opened.wait()
        assert peer.session is not None
        assert peer.session.is_open
        with run_udp_echo() as echo:
            channel = peer.session.open_channel(
                ChannelKind.UDP, call, host="127.0.0.1", port=echo.port
            )
            while not call.is_open:  # noqa: ASYNC110  (seen from outside)
                await asyncio.sleep(0.01)
            channel.send_datagrams([b"through the proxy"])
            while not call.datagrams:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert call.datagrams[0].endswith(b"through the proxy")
        await way.close()
        await running


async def close_what_was_left() -> None:
    """Close this loop's sockets: httpcore forgets that of a refused SOCKS login.

    The loop holds it as long as the proxy does; then it would be some later test's.
    """
    loop = asyncio.get_running_loop()
    for left in gc.get_objects():
        if type(left).__name__ == "_SelectorSocketTransport" and left._loop is loop:
            left.abort()
    await asyncio.sleep(0.01)  # the socket is closed in the loop's next turn


@pytest.mark.parametrize("kind", KINDS)
async def test_wrong_password_is_said_without_saying_it(
    relay: ManagedRelay, proxy: RunningProxy, kind: WayKind
) -> None:
    wrong = "not-s3cret"
    with pytest.raises(ClientError) as raised:
        await openers(relay, proxy.url(wrong))[kind](MeshPeer().make)
    await close_what_was_left()

    assert "proxy" in raised.value.message
    for text in (str(raised.value), repr(raised.value), raised.value.hint or ""):
        assert wrong not in text
        assert USER not in text
    if proxy.scheme == "http":
        assert isinstance(raised.value, TunnelRefused)


def test_command_goes_through_the_proxy_of_its_option(relay: ManagedRelay, tmp_path: Path) -> None:
    with tinyproxy(tmp_path) as proxy:
        peer = [*way_to(relay), "--key", str(tmp_path / "a.pem"), "--proxy", proxy.url()]
        asked = ghostctl("peer", "ping", *peer, "a" * 52)
        assert "by websocket" in asked.stdout, asked.stderr
        assert f"CONNECT {relay.host}:{relay.port}" in proxy.log()
        assert PASSWORD not in asked.stdout + asked.stderr


def test_proxy_that_is_none_is_refused_without_quoting_it(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    peer = [*way_to(relay), "--key", str(tmp_path / "a.pem")]
    asked = ghostctl("peer", "ping", *peer, "--proxy", f"ftp://x:{PASSWORD}@host", "a" * 52)

    assert asked.returncode == 2
    assert "--proxy" in asked.stderr
    assert PASSWORD not in asked.stdout + asked.stderr
