"""RFC 9298 sections 3.2 and 3.3 and RFC 9931: CONNECT-UDP over HTTP/1.1, through a whole relay."""

from pathlib import Path

import pytest

from masque_relay.wire.capsule import encode_capsule
from tests.support.relay import ECHO_HOST, InProcessRelay, running_relay, udp_echo
from tests.support.tcp_clients import H1Client, upgrade_request


async def connect(relay: InProcessRelay) -> H1Client:
    return await H1Client.connect(relay.https_address, relay.ca_pem, "http/1.1")


def upgrade(relay: InProcessRelay, port: int, *, host: str = ECHO_HOST) -> bytes:
    path = f"/.well-known/masque/udp/{host}/{port}/"
    return upgrade_request(path, f"Authorization: Bearer {relay.token()}")


@pytest.mark.clause("RFC 9298", "3.3", "MUST", "answer 101 with Connection and one Upgrade field")
@pytest.mark.clause("RFC 9298", "3.2", "MUST", "take GET with Upgrade: connect-udp for a tunnel")
async def test_section_3_3_an_upgrade_is_answered_with_101(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await connect(relay)
        answer = await client.request(upgrade(relay, port))
        assert answer.status == 101
        assert answer.fields["connection"].lower() == "upgrade"
        assert answer.fields["upgrade"] == "connect-udp"
        await client.echo(b"through the tunnel")


@pytest.mark.clause("RFC 9298", "3.2", "MUST", "answer an upgrade that is malformed with an error")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"GET ", b"POST "),
        (b"Upgrade: connect-udp\r\n", b""),
        (b"Connection: Upgrade\r\n", b""),
        (b"Host: localhost\r\n", b""),
        (b"Host: localhost\r\n", b"Host: localhost\r\nHost: other\r\n"),
    ],
    ids=["method", "no Upgrade", "no Connection", "no Host", "two Hosts"],
)
async def test_section_3_2_what_is_no_upgrade_is_answered_with_an_error(
    tmp_path: Path, right: bytes, wrong: bytes
) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await connect(relay)
        request = upgrade(relay, port)
        assert right in request
        answer = await client.request(request.replace(right, wrong))
        assert 400 <= answer.status < 600
        assert relay.gate.tunnel_count == 0


@pytest.mark.clause("RFC 9931", "6", "MUST", "close the connection behind a refused Upgrade")
async def test_rfc9931_nothing_behind_a_refused_upgrade_becomes_a_request(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await connect(relay)
        smuggled = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = await client.request(upgrade(relay, port, host="127.0.0.1") + smuggled)
        assert answer.status == 403
        await client.body(answer)
        assert await client.is_closed()
        assert relay.http.requests == 1


@pytest.mark.clause("RFC 9297", "3.3", "MUST", "treat a broken capsule as a malformed message")
async def test_rfc9297_section_3_3_a_broken_capsule_closes_the_connection(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await connect(relay)
        assert (await client.request(upgrade(relay, port))).status == 101
        client.send(encode_capsule(0, b"\0" + bytes(65_528)))
        assert await client.is_closed()
