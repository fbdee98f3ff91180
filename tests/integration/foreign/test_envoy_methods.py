"""Envoy in front of the relay: every method, from each HTTP version of a client to each of ours."""

import asyncio
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from masque_relay.client import HttpChoice, IpTunnel, RelayTimeout, ip_request
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ip_scope import IpScope
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_ip import ADDRESS_ASSIGN, decode_address_assign
from tests.support.envoy import front_configuration, run_envoy_listeners
from tests.support.ip_packets import icmp_kind, ping4
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.method_trials import (
    TRIAL_CONFIG,
    TRIAL_POLICY,
    TRIALS,
    VERSIONS,
    WAIT_S,
    WayIn,
    connect_ip,
    ghostwire,
)
from tests.support.site_certificate import SiteCertificate
from tests.support.tcp_clients import H2Client

DATAGRAM = 0
TUNNELS = [name for name in TRIALS if name not in ("CONNECT-IP", "Ghostwire", "WebSocket")]

pytestmark = pytest.mark.xdist_group("envoy-methods")


@dataclass(frozen=True, kw_only=True)
class Front:
    """A running Envoy."""

    relay: ManagedRelay
    site: SiteCertificate
    listeners: Mapping[str, tuple[str, int]]

    def way(self, http: HttpChoice) -> WayIn:
        _, port = self.listeners["h3" if http is HttpChoice.H3 else "tls"]
        url = f"https://127.0.0.1:{port}"
        return WayIn(url=url, ca_file=self.site.ca_file, token=self.relay.token)


@pytest.fixture(scope="module")
def tunnel_relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    directory = tmp_path_factory.mktemp("tunnel-relay")
    with managed_relay(directory, policy=TRIAL_POLICY, config=TRIAL_CONFIG) as relay:
        yield relay


@pytest.fixture(scope="module", params=["3", "2", "1.1"], ids="to the relay by HTTP/{}".format)
def front(
    request: pytest.FixtureRequest,
    tunnel_relay: ManagedRelay,
    site_certificate: SiteCertificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Front]:
    configuration = front_configuration(
        site=site_certificate,
        origin=tunnel_relay.address,
        origin_ca_file=tunnel_relay.ca_file,
        origin_http=request.param,
        over=("h3", "tls"),
    )
    directory = tmp_path_factory.mktemp("envoy-methods")
    with run_envoy_listeners(configuration, directory) as listeners:
        yield Front(relay=tunnel_relay, site=site_certificate, listeners=listeners)


@pytest.mark.interop("Envoy in front, to us by HTTP/{front}", "{method}", "{http}")
@pytest.mark.parametrize("http", VERSIONS)
@pytest.mark.parametrize("method", TUNNELS)
async def test_a_tunnel_works_through_the_front(
    front: Front, method: str, http: HttpChoice
) -> None:
    await TRIALS[method](front.way(http), http)


@pytest.mark.interop("Envoy in front, to us by HTTP/{front}", "Ghostwire", "{http}")
@pytest.mark.parametrize("http", [HttpChoice.H2, HttpChoice.H1])
async def test_a_peer_of_the_mesh_comes_in_through_the_front(
    front: Front, http: HttpChoice
) -> None:
    await ghostwire(front.way(http), http)


@pytest.mark.interop(
    "Envoy in front, to us by HTTP/{front}",
    "Ghostwire",
    "3",
    cannot="sessions over HTTP/3 are bound to their TLS connection, which Envoy ends",
)
async def test_a_session_bound_to_its_tls_connection_finds_the_front_out(front: Front) -> None:
    """Over HTTP/3 a peer signs what only the two ends of one TLS connection know."""
    with pytest.raises((AssertionError, RelayTimeout)):
        await ghostwire(front.way(HttpChoice.H3), HttpChoice.H3)


@pytest.mark.interop("Envoy in front, to us by HTTP/{front}", "WebSocket", "1.1")
async def test_a_websocket_opens_through_the_front(front: Front) -> None:
    await TRIALS["WebSocket"](front.way(HttpChoice.H1), HttpChoice.H1)


@pytest.mark.interop("Envoy in front, to us by HTTP/{front}", "CONNECT-IP", "{http}")
@pytest.mark.parametrize("front", ["2", "1.1"], indirect=True)
@pytest.mark.parametrize("http", VERSIONS)
async def test_connect_ip_works_where_the_relay_is_not_asked_by_http3(
    front: Front, http: HttpChoice
) -> None:
    await connect_ip(front.way(http), http)


@pytest.mark.interop(
    "Envoy in front, to us by HTTP/{front}",
    "CONNECT-IP",
    "{http}",
    cannot="its QUIC library keeps ADDRESS_ASSIGN and ROUTE_ADVERTISEMENT of tunnels that are asked"
    " for with Capsule-Protocol; packets pass",
)
@pytest.mark.parametrize("front", ["3"], indirect=True)
@pytest.mark.parametrize("http", VERSIONS)
async def test_the_relays_http3_tells_no_addresses_through_the_front(
    front: Front, http: HttpChoice
) -> None:
    news = asyncio.Event()
    tunnel = IpTunnel(on_packets=lambda packets: None, on_changed=news.set)
    async with front.way(http).client(http) as client:
        await client.start_tunnel(ip_request(IpScope()), tunnel)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await news.wait()


@pytest.mark.parametrize("front", ["3"], indirect=True)
@pytest.mark.parametrize("says_capsules", [True, False])
async def test_connect_ip_to_the_relays_http3_loses_capsules_of_those_who_announce_them(
    front: Front, says_capsules: bool
) -> None:
    """Envoy's QUIC library knows ADDRESS_ASSIGN and keeps it, where the request has the field.

    Packets pass in either case, so a client that knows its address needs no more.
    """
    _, port = front.listeners["tls"]
    address = Endpoint(address=IPv4Address("127.0.0.1"), port=port)
    client = await H2Client.connect(address, front.site.ca_file.read_bytes())
    try:
        field = [(b"capsule-protocol", b"?1")] if says_capsules else []
        stream_id, answer = await client.request(
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"connect-ip"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", b"/vpn"),
                (b"authorization", f"Bearer {front.relay.token}".encode()),
                *field,
            ]
        )
        assert answer.status == 200

        def capsules(kind: int) -> list[bytes]:
            decoder = CapsuleDecoder(
                max_capsule_bytes=70_000, known_types={DATAGRAM, ADDRESS_ASSIGN}
            )
            return [one.value for one in decoder.feed(bytes(answer.data)) if one.type == kind]

        if says_capsules:
            own = "10.71.0.2"  # the first of the pool: a relay with no other tunnel gives it
        else:
            await client.until(lambda: capsules(ADDRESS_ASSIGN))
            own = str(decode_address_assign(capsules(ADDRESS_ASSIGN)[0])[0].address)
        packet = b"\0" + ping4(own, "10.71.0.200")
        async with asyncio.timeout(WAIT_S):
            while not capsules(DATAGRAM):
                client.send_data(stream_id, encode_capsule(DATAGRAM, packet))
                await asyncio.sleep(0.2)
        assert bool(capsules(ADDRESS_ASSIGN)) is not says_capsules
        if not says_capsules:
            assert icmp_kind(capsules(DATAGRAM)[0][1:]) == (0, 0)
    finally:
        await client.close()
