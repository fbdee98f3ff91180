"""CONNECT-IP over HTTP/3, HTTP/2 and HTTP/1.1 with a whole relay and the loop egress."""

from pathlib import Path

import pytest

from tests.support.ip_packets import (
    has_good_checksums,
    icmp_kind,
    ipv4,
    ipv6,
    ping4,
    ping6,
    source_of,
    udp,
)
from tests.support.ip_rig import (
    GATEWAY4,
    GATEWAY6,
    NOBODY4,
    NOBODY6,
    VERSIONS,
    open_ip,
    running_ip_relay,
)


@pytest.mark.parametrize("version", VERSIONS)
async def test_packets_of_both_families_go_there_and_back(tmp_path: Path, version: str) -> None:
    async with running_ip_relay(tmp_path) as world:
        client = await (await open_ip(world.relay, version)).ready()

        pong = await client.exchange(ping4(client.ipv4, NOBODY4))
        assert icmp_kind(pong) == (0, 0)
        assert source_of(pong) == NOBODY4
        assert has_good_checksums(pong)
        pong = await client.exchange(ping6(client.ipv6, NOBODY6, b"x" * 1_232))
        assert icmp_kind(pong) == (129, 0)
        assert len(pong) == 1_280
        assert has_good_checksums(pong)
        echo = await client.exchange(ipv4(client.ipv4, NOBODY4, udp(b"hello")))
        assert echo.endswith(b"hello")
        echo = await client.exchange(ipv6(client.ipv6, NOBODY6, udp(b"hello")))
        assert echo.endswith(b"hello")
        assert (client.fields["capsule-protocol"], world.counters.addresses_assigned) == ("?1", 2)
        client.close()
    assert world.counters.addresses_assigned == 0
    assert world.pool.assigned_count == 0


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_relay_itself_answers_pings(tmp_path: Path, version: str) -> None:
    async with running_ip_relay(tmp_path) as world:
        client = await (await open_ip(world.relay, version)).ready()

        assert source_of(await client.exchange(ping4(client.ipv4, GATEWAY4))) == GATEWAY4
        assert source_of(await client.exchange(ping6(client.ipv6, GATEWAY6))) == GATEWAY6
        assert source_of(await client.exchange(ping6(client.ipv6, "ff02::1"))) == GATEWAY6
