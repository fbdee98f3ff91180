"""nginx/upgrade.conf forwards tunnels by HTTP Upgrade, with a real nginx in front."""

import ssl
from collections.abc import Generator

import httpx
import pytest

from masque_relay.client import HttpChoice, TunnelRefused
from tests.support.managed_relay import ManagedRelay
from tests.support.method_trials import TRIALS, WayIn, free_port
from tests.support.nginx import run_nginx
from tests.support.site_certificate import write_site_certificate

UPGRADES = [name for name in TRIALS if name != "CONNECT"]


@pytest.fixture(scope="module")
def way(relay: ManagedRelay, tmp_path_factory: pytest.TempPathFactory) -> Generator[WayIn]:
    directory = tmp_path_factory.mktemp("upgrade")
    site = write_site_certificate(directory / "site")
    port = free_port()
    with run_nginx(
        "upgrade.conf",
        directory,
        listen_address=f"127.0.0.1:{port}",
        certificate_file=site.certificate_file,
        key_file=site.key_file,
        relay_address=f"{relay.host}:{relay.port}",
        relay_name="localhost",
        relay_ca_file=relay.ca_file,
    ):
        yield WayIn(url=f"https://127.0.0.1:{port}", ca_file=site.ca_file, token=relay.token)


@pytest.mark.interop("nginx, forwarding Upgrades", "{method}", "1.1")
@pytest.mark.parametrize("method", UPGRADES)
async def test_a_tunnel_by_upgrade_goes_through_nginx(way: WayIn, method: str) -> None:
    await TRIALS[method](way, HttpChoice.H1)


@pytest.mark.interop(
    "nginx, forwarding Upgrades", "CONNECT", "1.1", cannot="nginx takes no CONNECT"
)
async def test_classic_connect_stops_at_nginx(way: WayIn) -> None:
    with pytest.raises(TunnelRefused):
        await TRIALS["CONNECT"](way, HttpChoice.H1)


async def test_pages_of_the_relay_come_through(way: WayIn) -> None:
    context = ssl.create_default_context(cafile=str(way.ca_file))
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        answer = await client.get(f"{way.url}/no-such-page")
    assert answer.status_code == 404


async def test_a_refusal_arrives_with_its_reason(way: WayIn) -> None:
    bad = WayIn(url=way.url, ca_file=way.ca_file, token="no.good.token")
    with pytest.raises(TunnelRefused) as refused:
        await TRIALS["CONNECT-UDP"](bad, HttpChoice.H1)
    assert refused.value.status == 401
