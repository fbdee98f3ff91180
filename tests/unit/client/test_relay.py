"""Owns the tests of RelayClient that need no network: files, order of calls, keep-alive.

tests/integration/client has the rest.
"""

from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.client.address import RelayAddress, make_target
from masque_relay.client.connection import RelayConnection
from masque_relay.client.credentials import Bearer, MutualTls
from masque_relay.client.errors import ConnectionLost, CredentialError
from masque_relay.client.limits import ClientLimits
from masque_relay.client.liveness import Liveness
from masque_relay.client.relay import RelayClient
from masque_relay.client.uplink import RelayOptions, Uplink
from masque_relay.contract.address import Endpoint
from tests.support.client_fakes import FakeClock, connection_on_fake

RELAY = RelayAddress.parse("https://127.0.0.1:4433")


async def test_nothing_can_be_opened_before_connect() -> None:
    client = RelayClient(RELAY)
    with pytest.raises(ConnectionLost, match="not connected"):
        await client.start_udp(make_target("a.test", 1))
    await client.close()


def uplink_on(connection: RelayConnection, client: RelayClient) -> Uplink:
    counters = client.counters

    async def end() -> None:
        pass

    return Uplink(
        connection=connection,
        peer=Endpoint(address=ip_address("192.0.2.1"), port=443),
        activity=lambda: (counters.datagrams_sent, counters.datagrams_received),
        end=end,
    )


async def test_a_ca_file_that_is_absent_or_holds_none_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pem", tmp_path / "empty.pem"):
        if path.name == "empty.pem":
            path.write_text("")
        with pytest.raises(CredentialError, match=path.name) as refused:
            await RelayClient(RELAY, RelayOptions(ca_file=path)).connect()
        assert refused.value.hint


async def test_a_client_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "client.pem"
    path.write_text("not PEM")
    credential = MutualTls(certificate_file=path, key_file=path)
    with pytest.raises(CredentialError, match=r"client\.pem") as refused:
        await RelayClient(RELAY, RelayOptions(credential=credential)).connect()
    assert refused.value.hint


async def test_a_bad_token_file_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    options = RelayOptions(credential=Bearer(file=tmp_path / "absent"))
    with pytest.raises(CredentialError):
        await RelayClient(RELAY, options).connect()


async def test_a_relay_that_answers_nothing_is_given_up() -> None:
    clock = FakeClock()
    client = RelayClient(RELAY, clock=clock)
    connection, transport = connection_on_fake()
    client._uplink = uplink_on(connection, client)
    client._liveness = Liveness(ClientLimits(silence_timeout_s=3.0), clock.now_s)
    for _ in range(6):
        clock.now_s += 1
        client.counters.datagrams_sent += 1
        client._check()
    assert connection.lost is not None
    assert "answers nothing" in connection.lost.message
    assert transport.quic.ping_count == 3
    await client.close()


async def test_a_silent_connection_is_kept_alive() -> None:
    clock = FakeClock()
    client = RelayClient(RELAY, clock=clock)
    connection, transport = connection_on_fake()
    client._uplink = uplink_on(connection, client)
    client._liveness = Liveness(ClientLimits(), clock.now_s)
    for _ in range(25):
        clock.now_s += 1
        client._check()
    assert transport.quic.ping_count == 2
    await client.close()
