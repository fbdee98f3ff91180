"""RFC 9297 through a whole relay: datagrams where there may be none, and Capsule-Protocol."""

import asyncio
from pathlib import Path

import pytest

from masque_relay.client.address import make_target
from masque_relay.client.errors import TunnelRefused
from masque_relay.quic.application import Headers
from masque_relay.wire.capsule import encode_capsule
from tests.support.client_fakes import connection_on_fake
from tests.support.http_fakes import GET_HEAD, head_with
from tests.support.http_rig import ScriptedApp, serving
from tests.support.relay import ECHO_HOST, InProcessRelay, running_relay, udp_echo

H3_DATAGRAM_ERROR = 0x33
H3_MESSAGE_ERROR = 0x10E


@pytest.mark.clause(
    "RFC 9297", "2", "MUST", "abort a request that knows no datagrams with H3_DATAGRAM_ERROR"
)
@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize(
    "head",
    [
        GET_HEAD,
        head_with(GET_HEAD, method=b"POST"),
        [(b":method", b"CONNECT"), (b":authority", b"target.example:443")],
    ],
    ids=["GET", "POST", "classic CONNECT"],
)
async def test_section_2_a_datagram_for_a_request_without_any_aborts_it(
    head: Headers, is_early: bool
) -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await rig.open_tunnel(0)
        if is_early:
            rig.peer.datagrams_received(4, [b"x"])
        await rig.request(4, head, end=False)
        if not is_early:
            rig.peer.datagrams_received(4, [b"x"])
        assert rig.transport.resets == {4: H3_DATAGRAM_ERROR}
        for call in app.calls:
            call.finish()


def refused(relay: InProcessRelay, port: int) -> dict[int, Headers]:
    """Tunnel requests and the status that each of them gets."""
    return {
        400: relay.connect_udp(ECHO_HOST, 0),
        401: relay.connect_udp(ECHO_HOST, port, token=""),
        403: relay.connect_udp("127.0.0.1", port),
        404: relay.connect_udp(ECHO_HOST, port, path=b"/elsewhere/"),
        501: [
            (name, b"connect-nothing" if name == b":protocol" else value)
            for name, value in relay.connect_udp(ECHO_HOST, port)
        ],
        502: relay.connect_udp("nowhere.invalid", port),
    }


@pytest.mark.clause("RFC 9297", "3.4", "MUST NOT", "say Capsule-Protocol outside of 101 and 2xx")
async def test_section_3_4_only_an_open_tunnel_says_capsule_protocol(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await relay.connect()
        for status, head in refused(relay, port).items():
            _, answer = await client.request(head)
            assert answer.status == status
            assert "capsule-protocol" not in answer.fields


@pytest.mark.clause("RFC 9297", "3.4", "SHOULD", "say Capsule-Protocol when capsules are spoken")
@pytest.mark.clause("RFC 9297", "3.2", "MUST NOT", "answer 204, 205 or 206, or describe content")
async def test_section_3_4_an_open_tunnel_says_so_and_describes_no_content(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await relay.connect()
        _, answer = await client.request(relay.connect_udp(ECHO_HOST, port))
        assert answer.status == 200
        assert answer.fields["capsule-protocol"] == "?1"
        assert answer.fields.keys().isdisjoint(
            {"content-length", "content-type", "transfer-encoding"}
        )


@pytest.mark.clause("RFC 9297", "3.2", "MUST", "skip capsules of unknown types silently")
@pytest.mark.parametrize("capsule_type", [0x17, 0x29 * 5 + 0x17, 0x40, (1 << 62) - 1])
async def test_section_3_2_reserved_and_unknown_capsules_are_skipped(
    tmp_path: Path, capsule_type: int
) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await relay.connect()
        stream_id, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
        unknown = encode_capsule(capsule_type, b"grease")
        client.session.send_data(stream_id, unknown, end_stream=False)
        await client.echo(stream_id, b"after it")


@pytest.mark.clause(
    "RFC 9297", "3.2", "MUST", "treat 204, 205, 206 and content fields as malformed"
)
@pytest.mark.parametrize(
    "answer",
    [
        [(b":status", b"204")],
        [(b":status", b"205")],
        [(b":status", b"206")],
        [(b":status", b"200"), (b"content-length", b"0")],
        [(b":status", b"200"), (b"content-type", b"text/plain")],
    ],
    ids=lambda answer: answer[-1][1].decode(),
)
async def test_section_3_2_a_response_with_content_opens_no_tunnel(answer: Headers) -> None:
    connection, transport = connection_on_fake()
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, answer, end_stream=False)
    )
    with pytest.raises(TunnelRefused):
        await connection.open_udp(make_target("192.0.2.7", 53), authority="r.test", path="/p")
    assert transport.resets == {0: H3_MESSAGE_ERROR}
