"""RFC 9220 and RFC 8441 section 4 through a whole relay."""

from pathlib import Path

import pytest

from tests.support.http_fakes import head_with
from tests.support.relay import ECHO_HOST, running_relay, udp_echo

ENABLE_CONNECT_PROTOCOL = 0x8


@pytest.mark.clause("RFC 9220", "3", "MUST", "announce SETTINGS_ENABLE_CONNECT_PROTOCOL = 1")
async def test_section_3_the_relay_announces_extended_connect(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        client = await relay.connect()
        assert client.settings is not None
        assert client.settings[ENABLE_CONNECT_PROTOCOL] == 1


@pytest.mark.clause("RFC 9220", "3", "SHOULD", "answer an unknown :protocol with 501")
@pytest.mark.parametrize("protocol", [b"webtransport", b"connect-udp-next"])
async def test_section_3_an_unknown_protocol_is_501_and_no_more(
    tmp_path: Path, protocol: bytes
) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await relay.connect()
        head = relay.connect_udp(ECHO_HOST, port)
        _, answer = await client.request(head_with(head, protocol=protocol))
        assert answer.status == 501
        stream_id, answer = await client.request(head)
        assert answer.status == 200
        await client.echo(stream_id, b"the connection lives")
