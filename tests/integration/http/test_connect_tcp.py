"""TCP through the relay: classic CONNECT and connect-tcp, on HTTP/3, HTTP/2 and HTTP/1.1."""

import asyncio
import hashlib
import random
import socket
from contextlib import closing
from pathlib import Path

import pytest

from masque_relay.contract.verdict import EndReason
from masque_relay.http.limits import HttpLimits
from tests.support.byte_tunnels import (
    RESET_ON_CLOSE,
    TCP_POLICY,
    Form,
    Version,
    echo,
    open_tunnel,
    tcp_target,
)
from tests.support.relay import ECHO_HOST, running_relay

EVERY_WAY = pytest.mark.parametrize(
    ("version", "form"), [(version, form) for version in Version for form in Form]
)
HALF_CLOSING_WAYS = pytest.mark.parametrize(
    ("version", "form"),
    [
        (version, form)
        for version in Version
        for form in Form
        if (version, form) != (Version.H1, Form.CLASSIC)
    ],
)
"""TLS over TCP ends both directions at once, so that classic CONNECT on HTTP/1.1 can't."""
BULK_BYTES = 10_000_000


def unused_port(host: str = ECHO_HOST) -> int:
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@EVERY_WAY
@pytest.mark.clause("connect-tcp-18", "3", "MUST", "carry TCP payload in DATA capsules")
async def test_bytes_go_to_the_target_and_come_back(
    tmp_path: Path, version: Version, form: Form
) -> None:
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(echo) as target:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)

        assert tunnel.status == 200
        assert tunnel.proxy_status.next_hop == str(target)
        assert tunnel.proxy_status.error is None
        assert ("capsule-protocol" in tunnel.fields) is (form is Form.TEMPLATED)
        await tunnel.echo(b"hello")
        await tunnel.echo(b"x" * 100_000)
        assert relay.tunnels.stream_uplink_bytes == relay.tunnels.stream_downlink_bytes == 100_005


@EVERY_WAY
async def test_ten_megabytes_arrive_unchanged(tmp_path: Path, version: Version, form: Form) -> None:
    data = random.Random(1).randbytes(BULK_BYTES)

    async def send_all(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await _reader.read()

    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(send_all) as target:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        await tunnel.until(lambda: tunnel.target_ended, timeout_s=60)

        assert hashlib.sha256(tunnel.received).digest() == hashlib.sha256(data).digest()


@EVERY_WAY
async def test_ten_megabytes_upwards_arrive_unchanged(
    tmp_path: Path, version: Version, form: Form
) -> None:
    data = random.Random(2).randbytes(BULK_BYTES)

    async def hash_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest = hashlib.sha256(await reader.readexactly(BULK_BYTES))
        writer.write(digest.digest())

    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(hash_all) as target:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        for start in range(0, len(data), 1_000_000):
            await tunnel.send(data[start : start + 1_000_000])
        await tunnel.until(lambda: len(tunnel.received) == 32, timeout_s=60)

        assert tunnel.received == hashlib.sha256(data).digest()


@HALF_CLOSING_WAYS
@pytest.mark.clause(
    "connect-tcp-18", "3", "MUST", "take the end of FINAL_DATA as FIN and pass it on"
)
async def test_target_answers_after_the_clients_end(
    tmp_path: Path, version: Version, form: Form
) -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())

    async with (
        running_relay(tmp_path, policy=TCP_POLICY) as relay,
        tcp_target(answer_at_the_end) as target,
    ):
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        await tunnel.send(b"everything")
        await tunnel.end()
        await tunnel.until(lambda: tunnel.target_ended)

        assert tunnel.received == b"got everything"
        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == EndReason.PEER_CLOSED
        await tunnel.until(lambda: tunnel.stream_ended)
        # RFC 9113 section 8.1: NO_ERROR where the client leaves its own side open.
        assert tunnel.reset_code in {None, 0}


@HALF_CLOSING_WAYS
@pytest.mark.clause("connect-tcp-18", "3", "MUST", "send FINAL_DATA when the target ends")
async def test_client_goes_on_after_the_targets_end(
    tmp_path: Path, version: Version, form: Form
) -> None:
    taken = asyncio.Queue[bytes]()

    async def end_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        taken.put_nowait(await reader.read())

    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(end_first) as target:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        await tunnel.until(lambda: tunnel.target_ended)
        assert tunnel.received == b"bye"
        await tunnel.send(b"not yet")
        await tunnel.end()

        async with asyncio.timeout(10):
            assert await taken.get() == b"not yet"
        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == EndReason.PEER_CLOSED


async def test_on_http1_the_targets_end_is_the_end_of_a_classic_tunnel(tmp_path: Path) -> None:
    async def say_bye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")

    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(say_bye) as target:
        tunnel = await open_tunnel(relay, Version.H1, Form.CLASSIC, ECHO_HOST, target.port)
        await tunnel.until(lambda: tunnel.stream_ended)

        assert tunnel.received == b"bye"
        assert tunnel.reset_code is None
        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == EndReason.PEER_CLOSED


@EVERY_WAY
@pytest.mark.clause("connect-tcp-18", "3", "MUST", "connect before the 2xx or 101")
@pytest.mark.clause("connect-tcp-18", "3", "SHOULD", "send proxy-status with refusals")
async def test_target_that_refuses_is_502(tmp_path: Path, version: Version, form: Form) -> None:
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, unused_port())

        assert tunnel.status == 502
        assert tunnel.proxy_status.error == "connection_refused"


@EVERY_WAY
async def test_target_that_never_answers_is_504(
    tmp_path: Path, version: Version, form: Form
) -> None:
    limits = HttpLimits(connect_timeout_s=0.3)
    with closing(socket.socket()) as full:
        full.bind((ECHO_HOST, 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:  # the queue is full: Linux drops further SYNs
            one.settimeout(0)
            one.connect_ex((ECHO_HOST, port))
        async with running_relay(tmp_path, policy=TCP_POLICY, http_limits=limits) as relay:
            tunnel = await open_tunnel(relay, version, form, ECHO_HOST, port)

            assert tunnel.status == 504
            assert tunnel.proxy_status.error == "connection_timeout"
        for one in waiting:
            one.close()


@EVERY_WAY
@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "private.test", "metadata.test"])
async def test_private_address_is_refused(
    tmp_path: Path, version: Version, form: Form, host: str
) -> None:
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay:
        tunnel = await open_tunnel(relay, version, form, host, 80)

        assert tunnel.status == 403
        assert tunnel.proxy_status.error == "destination_ip_prohibited"


@EVERY_WAY
@pytest.mark.clause("connect-tcp-18", "3", "MUST", "ask for a credential as an origin does, by 401")
async def test_missing_credential_is_407_to_a_proxys_client_and_401_to_an_origins(
    tmp_path: Path, version: Version, form: Form
) -> None:
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, 80, token="")

        if form is Form.CLASSIC:
            assert tunnel.status == 407
            assert "proxy-authenticate" in tunnel.fields
        else:
            assert tunnel.status == 401
            assert "www-authenticate" in tunnel.fields


@pytest.mark.parametrize("version", Version)
@pytest.mark.clause("connect-tcp-18", "3", "MUST", "honour Expect: 100-continue")
async def test_expect_is_answered_before_the_target(tmp_path: Path, version: Version) -> None:
    expect = [(b"expect", b"100-continue")]
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(echo) as target:
        tunnel = await open_tunnel(
            relay, version, Form.TEMPLATED, ECHO_HOST, target.port, extra=expect
        )
        assert tunnel.interim_statuses == [100]
        assert tunnel.status == 200
        await tunnel.echo(b"go on")

        refused = await open_tunnel(relay, version, Form.TEMPLATED, "10.0.0.1", 1, extra=expect)
        assert refused.status == 403


@EVERY_WAY
@pytest.mark.clause(
    "connect-tcp-18", "3", "MUST", "reset the stream when the TCP connection is reset"
)
async def test_target_that_resets_resets_the_stream(
    tmp_path: Path, version: Version, form: Form
) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()

    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(reset) as target:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        await tunnel.send(b"x")
        await tunnel.until(lambda: tunnel.reset_code is not None or tunnel.stream_ended)

        expected = {Version.H3: 0x10F, Version.H2: 0xA}  # H3_CONNECT_ERROR, CONNECT_ERROR
        if version in expected:
            assert tunnel.reset_code == expected[version]
        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == EndReason.TARGET_FAILED


@EVERY_WAY
@pytest.mark.clause(
    "connect-tcp-18", "3", "SHOULD", "reset the TCP connection when the stream is reset"
)
async def test_client_that_resets_resets_the_target(
    tmp_path: Path, version: Version, form: Form
) -> None:
    ends = asyncio.Queue[str]()

    async def note_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65_536):
                pass
        except ConnectionResetError:
            ends.put_nowait("reset")
        else:
            ends.put_nowait("end")

    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(note_end) as target:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        await tunnel.send(b"x")
        tunnel.reset()

        async with asyncio.timeout(10):
            assert await ends.get() == "reset"


@EVERY_WAY
async def test_client_that_does_not_read_stops_the_target_and_not_its_neighbours(
    tmp_path: Path, version: Version, form: Form
) -> None:
    sent_bytes = 0
    is_stopped = asyncio.Event()

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        while True:
            writer.write(bytes(65_536))
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                is_stopped.set()
                return
            sent_bytes += 65_536

    async with (
        running_relay(tmp_path, policy=TCP_POLICY) as relay,
        tcp_target(flood) as target,
        tcp_target(echo) as neighbour,
    ):
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        tunnel.stop_reading()
        async with asyncio.timeout(30):
            await is_stopped.wait()

        # The queue of the stream, and what the kernel holds on the way there.
        assert sent_bytes < 32_000_000
        if version is Version.H2:
            beside = await open_tunnel(
                relay, version, form, ECHO_HOST, neighbour.port, beside=tunnel
            )
        else:  # the test's HTTP/3 client stops reading its whole connection
            beside = await open_tunnel(relay, version, form, ECHO_HOST, neighbour.port)
        await beside.echo(b"not held up")


@EVERY_WAY
async def test_target_that_does_not_read_stops_the_client_and_not_its_neighbours(
    tmp_path: Path, version: Version, form: Form
) -> None:
    async def never_read(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport
        await asyncio.Event().wait()

    async with (
        running_relay(tmp_path, policy=TCP_POLICY) as relay,
        tcp_target(never_read) as target,
        tcp_target(echo) as neighbour,
    ):
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        for _ in range(320):
            await tunnel.send(bytes(100_000))
        beside = await open_tunnel(relay, version, form, ECHO_HOST, neighbour.port, beside=tunnel)
        await beside.echo(b"not held up")

        assert relay.dataplane.tcp_unsent_bytes < 2_000_000
        assert relay.tunnels.stream_uplink_bytes < 32_000_000


@EVERY_WAY
async def test_revocation_ends_the_tunnel(tmp_path: Path, version: Version, form: Form) -> None:
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(echo) as target:
        tunnel = await open_tunnel(relay, version, form, ECHO_HOST, target.port)
        await tunnel.echo(b"still here")
        relay.gate.revoke(subject="alice", token_id=None)
        await tunnel.until(lambda: tunnel.reset_code is not None or tunnel.stream_ended)

        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == EndReason.REVOKED
        assert relay.gate.tunnel_count == 0


async def test_name_is_connected_to_an_admitted_address_only(tmp_path: Path) -> None:
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(echo) as target:
        tunnel = await open_tunnel(relay, Version.H2, Form.CLASSIC, "mixed.test", target.port)

        assert tunnel.proxy_status.next_hop == f"{ECHO_HOST}:{target.port}"
        await tunnel.echo(b"by name")


async def test_rate_of_the_policy_slows_and_loses_nothing(tmp_path: Path) -> None:
    policy = TCP_POLICY.replace(
        f'targets = ["{ECHO_HOST}/32:*"]',
        f'targets = ["{ECHO_HOST}/32:*"]\nlimits = {{ rate_bytes_per_s = 400_000 }}',
    )
    payload = random.Random(3).randbytes(600_000)
    async with running_relay(tmp_path, policy=policy) as relay, tcp_target(echo) as target:
        tunnel = await open_tunnel(relay, Version.H2, Form.TEMPLATED, ECHO_HOST, target.port)
        started_s = asyncio.get_running_loop().time()
        await tunnel.echo(payload)

        assert asyncio.get_running_loop().time() - started_s > 0.4


async def test_idle_tunnel_ends(tmp_path: Path) -> None:
    policy = TCP_POLICY.replace(
        f'targets = ["{ECHO_HOST}/32:*"]',
        f'targets = ["{ECHO_HOST}/32:*"]\nlimits = {{ idle_timeout_s = 0.3 }}',
    )
    async with running_relay(tmp_path, policy=policy) as relay, tcp_target(echo) as target:
        tunnel = await open_tunnel(relay, Version.H3, Form.CLASSIC, ECHO_HOST, target.port)
        await tunnel.until(lambda: tunnel.reset_code is not None)

        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == EndReason.IDLE


@pytest.mark.parametrize("version", Version)
@pytest.mark.clause(
    "connect-tcp-18", "3", "MUST", "treat DATA or FINAL_DATA after FINAL_DATA as malformed"
)
async def test_data_after_final_data_resets_the_stream(tmp_path: Path, version: Version) -> None:
    async with running_relay(tmp_path, policy=TCP_POLICY) as relay, tcp_target(echo) as target:
        tunnel = await open_tunnel(relay, version, Form.TEMPLATED, ECHO_HOST, target.port)
        await tunnel.end()
        await tunnel.send(b"too late")
        await tunnel.until(lambda: tunnel.reset_code is not None or tunnel.stream_ended)

        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == EndReason.PROTOCOL_ERROR
