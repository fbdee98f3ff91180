"""Envoy between a CONNECT-IP client and the relay: it forwards the tunnel over HTTP/3.

Envoy 1.40 forwards the packets, and swallows ADDRESS_ASSIGN and ROUTE_ADVERTISEMENT: its library
knows these capsules and has nobody to give them to. Such a client must know its addresses.
"""

from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.quic.settings import ClientTls
from tests.support.envoy import front_configuration, run_envoy
from tests.support.h3_client import H3Client
from tests.support.ip_packets import icmp_kind, ping4, ping6
from tests.support.ip_rig import NOBODY4, NOBODY6, open_ip, running_ip_relay
from tests.support.site_certificate import SiteCertificate

FIRST4, FIRST6 = "10.71.0.2", "fd71::2"  # what the relay gives first
SCOPED = "/.well-known/masque/ip/10.71.0.192%2F28/%2A/"


@pytest.mark.parametrize("size", [4, 1_232])
async def test_packets_pass_through_the_front_and_the_path_is_untouched(
    tmp_path: Path, site_certificate: SiteCertificate, size: int
) -> None:
    async with running_ip_relay(tmp_path) as world:
        relay = world.relay
        configuration = front_configuration(
            site=site_certificate,
            origin=(str(relay.address.address), relay.address.port),
            origin_ca_file=relay.site.ca_file,
        )
        with run_envoy(configuration, tmp_path / "envoy") as (host, port):
            front = H3Client()
            await relay.client_endpoint.connect(
                Endpoint(address=ip_address(host), port=port),
                server_name="localhost",
                alpn="h3",
                application=front.attach,
                tls=ClientTls(ca_pem=site_certificate.ca_file.read_bytes()),
            )
            await front.until(lambda: front.settings is not None)
            client = await open_ip(relay, over=front)
            assert (client.status, client.fields["capsule-protocol"]) == (200, "?1")
            data = b"x" * size
            assert icmp_kind(await client.exchange(ping4(FIRST4, NOBODY4, data))) == (0, 0)
            assert icmp_kind(await client.exchange(ping6(FIRST6, NOBODY6, data))) == (129, 0)
            assert client.capsules == []

            scoped = await open_ip(relay, over=front, path=SCOPED)
            assert icmp_kind(await scoped.exchange(ping4("10.71.0.3", NOBODY4, data))) == (0, 0)
            outside = await scoped.exchange(ping4("10.71.0.3", "10.71.0.9", data))
            assert icmp_kind(outside) == (3, 0)
            refused = await open_ip(relay, over=front, token="nonsense")
            assert refused.status == 401
