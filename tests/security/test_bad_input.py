"""Bad input, each with a clear answer, while a second tunnel on the same connection works on.

Every test opens a neighbour tunnel first, sends the bad input on the same connection, looks at the
answer, and leaves only if the neighbour still carries datagrams.
"""

import asyncio
import base64
import json
import os
import resource
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from structlog.testing import capture_logs

from masque_relay.control.auth.keys import generate_signing_key
from masque_relay.control.settings import GateLimits
from masque_relay.http.limits import HttpLimits
from masque_relay.quic.application import Headers
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.varint import encode_varint
from tests.support.h3_client import Exchange, H3Client
from tests.support.relay import (
    AUDIENCE,
    ECHO_HOST,
    ISSUER,
    InProcessRelay,
    running_relay,
    udp_echo,
)

H3_MESSAGE_ERROR = 0x10E
H3_REQUEST_REJECTED = 0x10B
OPENS = int(os.environ.get("RELAY_TEST_OPENS", "10000"))


@dataclass(kw_only=True)
class Scene:
    """A relay, a connection to it, and a tunnel on it that must survive."""

    relay: InProcessRelay
    client: H3Client
    port: int
    neighbour: int

    async def open_tunnel(self) -> tuple[int, Exchange]:
        """Open the tunnel that is about to misbehave."""
        stream_id, answer = await self.client.request(self.relay.connect_udp(ECHO_HOST, self.port))
        assert answer.status == 200
        return stream_id, answer

    async def ask(self, head: Headers) -> Exchange:
        return (await self.client.request(head))[1]


@asynccontextmanager
async def scene(
    directory: Path,
    *,
    http_limits: HttpLimits | None = None,
    gate_limits: GateLimits | None = None,
) -> AsyncGenerator[Scene]:
    """Set the scene; at the end the neighbour must work and the relay must be free of bugs."""
    async with (
        running_relay(directory, http_limits=http_limits, gate_limits=gate_limits) as relay,
        udp_echo() as port,
    ):
        client = await relay.connect()
        neighbour, answer = await client.request(relay.connect_udp(ECHO_HOST, port))
        assert answer.status == 200
        await client.echo(neighbour, b"before")
        yield Scene(relay=relay, client=client, port=port, neighbour=neighbour)
        await client.echo(neighbour, b"after")
        assert client.lost is None
        assert client.exchanges[neighbour].reset is None
        assert relay.http.application_errors == 0


def unsigned_token() -> str:
    """A token that says ``alg: none`` (RFC 8725 section 2.1)."""
    now_s = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now_s, "exp": now_s + 600}

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


def confused_token(relay: InProcessRelay) -> str:
    """HS256 with the relay's *public* key as the secret (RFC 8725 section 2.1)."""
    now_s = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now_s, "exp": now_s + 600}
    # PyJWT refuses to sign with a PEM, so the secret goes in as the bytes an attacker would use.
    secret = base64.b64encode(relay.signing_key.public_pem())
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": relay.signing_key.kid})


class TestTokens:
    @pytest.mark.parametrize(
        "kind",
        ["garbage", "foreign key", "expired", "foreign audience", "none", "confused", "cut"],
    )
    async def test_bad_token_is_401_and_says_no_more(self, tmp_path: Path, kind: str) -> None:
        async with scene(tmp_path) as here:
            relay = here.relay
            token = {
                "garbage": lambda: "not.a.token",
                "foreign key": lambda: relay.token(key=generate_signing_key()),
                "expired": lambda: relay.token(lifetime_s=60, issued_before_s=3_600),
                "foreign audience": lambda: relay.token(audience="somebody-else"),
                "none": unsigned_token,
                "confused": lambda: confused_token(relay),
                "cut": lambda: relay.token()[:-4],
            }[kind]()

            answer = await here.ask(relay.connect_udp(ECHO_HOST, here.port, token=token))

            assert answer.status == 401
            assert answer.proxy_status.error == "http_request_denied"
            challenges = [value for name, value in answer.heads[-1] if name == b"www-authenticate"]
            assert challenges[0] == b'Bearer realm="relay", error="invalid_token"'
            await here.client.until(lambda: answer.ended)
            told = repr(answer)
            assert "audience" not in told
            assert "signature" not in told
            assert "alice" not in told

    @pytest.mark.clause("RFC 9298", "7", "SHOULD", "serve authenticated clients only")
    async def test_missing_credential_is_401_with_both_challenges(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            head = here.relay.connect_udp(ECHO_HOST, here.port, token="")
            answer = await here.ask(head)

            assert answer.status == 401
            challenges = [value for name, value in answer.heads[-1] if name == b"www-authenticate"]
            assert [value.split()[0] for value in challenges] == [b"Bearer", b"Basic"]

    @pytest.mark.parametrize("value", [b"Bearer", b"Basic !!", b"Negotiate xyz", b"\xff"])
    async def test_credential_of_another_kind_is_refused_not_ignored(
        self, tmp_path: Path, value: bytes
    ) -> None:
        async with scene(tmp_path) as here:
            extra = [(b"proxy-authorization", value)]
            head = here.relay.connect_udp(ECHO_HOST, here.port, token="", extra=extra)

            assert (await here.ask(head)).status == 407

    async def test_unknown_subject_is_403_by_default_deny(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            token = here.relay.token("mallory")
            answer = await here.ask(here.relay.connect_udp(ECHO_HOST, here.port, token=token))

            assert answer.status == 403
            assert answer.proxy_status.error == "http_request_denied"


class TestRequestHeads:
    async def test_missing_capsule_protocol_is_implied_by_connect_udp(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            head = here.relay.connect_udp(ECHO_HOST, here.port)
            stream_id, answer = await here.client.request(
                [field for field in head if field[0] != b"capsule-protocol"]
            )

            assert answer.status == 200
            await here.client.echo(stream_id, b"implied")

    @pytest.mark.clause(
        "RFC 8441", "4", "MUST NOT", "use :protocol with another method than CONNECT"
    )
    async def test_get_with_protocol_is_a_stream_error(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            head = here.relay.connect_udp(ECHO_HOST, here.port)
            answer = await here.ask([(b":method", b"GET"), *head[1:]])

            assert answer.status is None
            assert answer.reset == H3_MESSAGE_ERROR
            assert here.relay.http.requests_malformed == 1

    @pytest.mark.clause(
        "RFC 9114", "4.1.2", "MUST", "reset the stream of a malformed message with H3_MESSAGE_ERROR"
    )
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            (b":scheme", None),
            (b":path", None),
            (b":authority", None),
            (b":protocol", b""),
            (b":path", b"/\0"),
            (b":path", b"/\xff"),
            (b":path", b"relative"),
            (b":authority", b"a@b"),
            (b"content-length", b"5"),
            (b"transfer-encoding", b"chunked"),
            (b"connection", b"upgrade"),
            (b"x", b"a\r\nb"),
            (b"Upper", b"case"),
            (b":status", b"200"),
        ],
    )
    async def test_malformed_head_is_a_stream_error(
        self, tmp_path: Path, name: bytes, value: bytes | None
    ) -> None:
        async with scene(tmp_path) as here:
            head = here.relay.connect_udp(ECHO_HOST, here.port)
            at = next((i for i, field in enumerate(head) if field[0] == name), None)
            if at is not None:
                del head[at]
            if value is not None:
                late = len(head) if at is None else at
                head.insert(5 if name == b":status" else late, (name, value))
            answer = await here.ask(head)

            assert answer.status is None
            assert answer.reset == H3_MESSAGE_ERROR


class TestTargets:
    @pytest.mark.clause(
        "RFC 9298", "7", "SHOULD", "keep clients away from the relay's own networks"
    )
    @pytest.mark.parametrize(
        "host",
        [
            "0.0.0.0",
            "127.0.0.1",
            "%3A%3Affff%3A10.0.0.1",
            "::ffff:10.0.0.1",
            "%3A%3Affff%3A7f00%3A1",
            "169.254.169.254",
            "%3A%3A1",
            "fe80%3A%3A1",
            "10.0.0.1",
            "255.255.255.255",
            "224.0.0.1",
        ],
    )
    async def test_prohibited_address_is_403(self, tmp_path: Path, host: str) -> None:
        async with scene(tmp_path) as here:
            answer = await here.ask(here.relay.connect_udp(host, here.port))

            assert answer.status == 403
            assert answer.proxy_status.error == "destination_ip_prohibited"
            assert answer.proxy_status.next_hop is None

    @pytest.mark.parametrize(
        "name",
        ["metadata.test", "loopback.test", "mapped.test", "private.test", "unspecified.test"],
    )
    async def test_name_that_resolves_to_one_is_403_and_the_address_stays_secret(
        self, tmp_path: Path, name: str
    ) -> None:
        async with scene(tmp_path) as here:
            answer = await here.ask(here.relay.connect_udp(name, here.port))

            assert answer.status == 403
            assert answer.proxy_status.error == "destination_ip_prohibited"
            await here.client.until(lambda: answer.ended)
            assert not any(
                address in repr(answer)
                for address in ["169.254", "127.0.0.1", "10.0.0.1", "0.0.0.0"]
            )

    @pytest.mark.clause("RFC 9298", "3", "MUST", "have a target_port between 1 and 65535")
    @pytest.mark.parametrize("port", ["0", "70000", "65536", "-1", "", "53x", "%35%33%00"])
    async def test_impossible_port_is_400(self, tmp_path: Path, port: str) -> None:
        async with scene(tmp_path) as here:
            answer = await here.ask(here.relay.connect_udp(ECHO_HOST, port))

            assert answer.status == 400
            assert answer.proxy_status.error == "http_request_error"

    @pytest.mark.clause("RFC 9298", "3", "MUST NOT", "leave target_host empty or malformed")
    @pytest.mark.parametrize(
        "host",
        ["%00", "a%00b", "%FF", "%C3%28", "%", "%zz", "127.1", "0x7f.1", "2130706433", "a%20b"],
    )
    async def test_broken_host_is_400(self, tmp_path: Path, host: str) -> None:
        async with scene(tmp_path) as here:
            answer = await here.ask(here.relay.connect_udp(host, here.port))

            assert answer.status == 400
            assert answer.proxy_status.error == "http_request_error"


class TestDatagrams:
    @pytest.mark.clause(
        "RFC 9298", "5", "MUST", "abort the stream over a payload beyond 65527 bytes"
    )
    async def test_payload_that_udp_cannot_carry_aborts_its_stream(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            capsule = encode_capsule(0, b"\0" + bytes(65_528))
            here.client.session.send_data(stream_id, capsule, end_stream=False)

            await here.client.finished(stream_id)
            assert answer.reset == H3_MESSAGE_ERROR

    @pytest.mark.clause(
        "RFC 9298", "3.1", "MUST", "drop datagrams that are too large for the way to the target"
    )
    async def test_payload_that_the_path_to_the_target_refuses_is_dropped(
        self, tmp_path: Path
    ) -> None:
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            # IPv4 carries 65,507 bytes of UDP payload at most: EMSGSIZE from the kernel.
            capsule = encode_capsule(0, b"\0" + bytes(65_520))
            here.client.session.send_data(stream_id, capsule, end_stream=False)
            await here.client.until(lambda: here.client.session.unsent_bytes(stream_id) == 0)

            await here.client.echo(stream_id, b"goes on")
            assert answer.reset is None

    @pytest.mark.clause("RFC 9298", "6.1", "SHOULD", "drop what does not fit the way to the client")
    async def test_answer_larger_than_the_path_to_the_client_is_dropped_and_counted(
        self, tmp_path: Path
    ) -> None:
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            await here.client.echo(stream_id, b"datagrams it is")
            capsule = encode_capsule(0, b"\0" + bytes(4_000))
            with capture_logs() as records:
                for _ in range(3):
                    here.client.session.send_data(stream_id, capsule, end_stream=False)
                await here.client.until(lambda: here.client.session.unsent_bytes(stream_id) == 0)
                await here.client.echo(stream_id, b"goes on")

            assert here.relay.tunnels.oversize_downlink_dropped == 3
            (told,) = [record for record in records if "too large" in record["event"]]
            assert told["largest_bytes"] == 4_000
            assert not answer.data, "no silent fall-back to a capsule"

    async def test_unknown_context_is_dropped_and_counted(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            session = here.client.session
            session.send_datagrams(stream_id, b"\x02", [b"unknown"])
            session.send_datagrams(stream_id, b"", [b"", b"\x40"])

            await here.client.echo(stream_id, b"goes on")
            assert here.relay.tunnels.unknown_context_dropped == 3
            assert answer.datagrams == [b"\0goes on"]

    @pytest.mark.clause(
        "RFC 9298", "5", "SHOULD", "limit what is buffered for requests that may come"
    )
    async def test_datagrams_for_streams_that_never_were_are_bounded(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            for quarter_id in range(1_000, 3_000):
                head = encode_varint(quarter_id)
                here.client.session.quic.send_datagrams(head, [b"\0x" * 50])
                if quarter_id % 100 == 0:
                    await asyncio.sleep(0)

            await here.client.echo(here.neighbour, b"through the flood")


class TestCapsules:
    @pytest.mark.clause(
        "RFC 9297", "3.3", "MUST", "treat a capsule cut off by FIN as a malformed message"
    )
    async def test_truncated_capsule_is_a_stream_error(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            here.client.session.send_data(stream_id, b"\0\x40\xffabc", end_stream=True)

            await here.client.until(lambda: answer.reset is not None)
            assert answer.reset == H3_MESSAGE_ERROR
            assert here.relay.http.capsules_malformed == 1

    @pytest.mark.clause(
        "RFC 9297", "3.5", "SHOULD NOT", "buffer a DATAGRAM capsule that cannot be used"
    )
    @pytest.mark.clause(
        "RFC 9298", "5", "SHOULD NOT", "buffer a DATAGRAM capsule that cannot be used"
    )
    async def test_datagram_capsule_that_announces_a_gibibyte_is_a_stream_error(
        self, tmp_path: Path
    ) -> None:
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            head = encode_varint(0) + encode_varint(1 << 30)
            here.client.session.send_data(stream_id, head + b"abc", end_stream=False)

            await here.client.until(lambda: answer.reset is not None)
            assert answer.reset == H3_MESSAGE_ERROR

    async def test_unknown_capsule_that_announces_a_gibibyte_is_skipped_as_it_comes(
        self, tmp_path: Path
    ) -> None:
        """RFC 9297 section 3.2: unknown types are skipped silently, whatever their length."""
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            head = encode_varint(0x29) + encode_varint(1 << 30)
            here.client.session.send_data(stream_id, head, end_stream=False)
            for _ in range(30):
                here.client.session.send_data(stream_id, bytes(65_536), end_stream=False)
            await here.client.until(lambda: here.client.session.unsent_bytes(stream_id) == 0)

            await here.client.echo(stream_id, b"goes on")
            assert answer.reset is None


class TestFloods:
    @pytest.mark.timeout(300)
    async def test_ten_thousand_opens_from_one_identity_hit_the_cap(
        self, tmp_path: Path, timescale: float
    ) -> None:
        cap = 40
        gate_limits = GateLimits(tunnels_per_subject=cap, opens_per_s=1e6, open_burst=1_000_000)
        http_limits = HttpLimits(request_burst_count=1_000_000)
        async with scene(tmp_path, gate_limits=gate_limits, http_limits=http_limits) as here:
            relay, client = here.relay, here.client
            head = relay.connect_udp(ECHO_HOST, here.port)
            memory_before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            outcomes: dict[int | None, int] = {}
            async with asyncio.timeout(120 * timescale):
                for first in range(0, OPENS, 50):
                    streams = [client.send(head) for _ in range(min(50, OPENS - first))]
                    for stream_id in streams:
                        answer = await client.answer(stream_id)
                        outcomes[answer.status] = outcomes.get(answer.status, 0) + 1
                        if answer.status != 200:
                            client.session.send_data(stream_id, b"", end_stream=True)
                            del client.exchanges[stream_id]
            grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before_kib

            assert outcomes == {200: cap - 1, 429: OPENS - cap + 1}, "the neighbour holds one"
            assert relay.gate.tunnel_count == cap
            assert grown_kib < 100 * 1024

    async def test_opens_beyond_the_identitys_rate_are_429(self, tmp_path: Path) -> None:
        async with scene(tmp_path, gate_limits=GateLimits(opens_per_s=0.1, open_burst=5)) as here:
            head = here.relay.connect_udp(ECHO_HOST, here.port)
            statuses = [(await here.ask(head)).status for _ in range(8)]

            assert statuses == [200] * 4 + [429] * 4

    async def test_requests_beyond_the_connections_rate_are_rejected(self, tmp_path: Path) -> None:
        limits = HttpLimits(request_burst_count=5, request_rate_per_s=0.1)
        async with scene(tmp_path, http_limits=limits) as here:
            head = here.relay.connect_udp(ECHO_HOST, here.port)
            answers = [await here.ask(head) for _ in range(8)]

            assert [answer.status for answer in answers] == [200] * 4 + [None] * 4
            assert {answer.reset for answer in answers[4:]} == {H3_REQUEST_REJECTED}


class TestSlowAndDeadEnds:
    async def test_slow_reader_of_capsules_loses_datagrams_not_our_memory(
        self, tmp_path: Path
    ) -> None:
        async with scene(tmp_path) as here:
            stream_id, answer = await here.open_tunnel()
            here.client.reads_data = False
            capsule = encode_capsule(0, b"\0" + bytes(8_000))
            async with asyncio.timeout(20):
                while not here.relay.http.capsule_datagrams_dropped:
                    here.client.session.send_data(stream_id, capsule * 8, end_stream=False)
                    await asyncio.sleep(0.01)

            assert len(answer.data) <= 300_000, "the stream's window"
            assert answer.reset is None

    @pytest.mark.clause(
        "RFC 9298",
        "3.1",
        "DEVIATION",
        "ICMP unreachable does not end a tunnel: the socket stays usable",
    )
    async def test_target_that_answers_icmp_unreachable_leaves_the_tunnel_open(
        self, tmp_path: Path
    ) -> None:
        async with scene(tmp_path) as here:
            async with udp_echo() as closed_port:
                pass
            stream_id, answer = await here.client.request(
                here.relay.connect_udp(ECHO_HOST, closed_port)
            )
            assert answer.status == 200
            for _ in range(3):
                here.client.session.send_datagrams(stream_id, b"\0", [b"anybody?"])
                await here.client.echo(here.neighbour, b"meanwhile")
            assert answer.reset is None
            here.client.session.send_data(stream_id, b"", end_stream=True)
            await here.client.finished(stream_id)

            await here.relay.audit.until(here.relay.audit.ends)
            (record,) = here.relay.audit.ends()
            assert "connection_refused" in str(record["detail"])
            assert record["reason"] == "peer_closed"
