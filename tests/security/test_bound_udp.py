"""Bound UDP against clients that break its rules, who may not have it, and peers that flood."""

import asyncio
from pathlib import Path

import pytest

from masque_relay.contract.verdict import EndReason
from masque_relay.http.limits import HttpLimits
from masque_relay.tunnels.connect_udp_bind import BindLimits
from masque_relay.tunnels.context_table import ContextLimits
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.connect_udp_bind import encode_assign
from tests.support.bind_rig import (
    ACK,
    ASSIGN,
    BIND_POLICY,
    CLOSE,
    LOOPBACK_BIND,
    VERSIONS,
    BindClient,
    open_bind,
    plain,
    udp_peer,
    wire,
)
from tests.support.relay import InProcessRelay, running_relay
from tests.support.tcp_clients import H2Client

every_version = pytest.mark.parametrize("version", VERSIONS)

PEER = ("127.0.0.1", 9)
OTHER = ("127.0.0.1", 10)


async def works(client: BindClient) -> bool:
    """Whether a tunnel still relays."""
    async with udp_peer() as peer:
        client.send_datagrams([plain(2, peer.address, b"alive")])
        await peer.until(b"alive")
    return True


async def open_listening(relay: InProcessRelay, version: str) -> BindClient:
    client = await open_bind(relay, version)
    assert await client.assign(2) == ACK
    return client


BREAKS = {
    "context 0 assigned": [(ASSIGN, b"\x00\x00")],
    "odd context": [(ASSIGN, encode_assign(3, wire(PEER)))],
    "context used again": [(ASSIGN, encode_assign(4, wire(PEER))), (ASSIGN, b"\x04\x00")],
    "context used again after its close": [
        (ASSIGN, encode_assign(4, wire(PEER))),
        (CLOSE, b"\x04"),
        (ASSIGN, encode_assign(4, wire(OTHER))),
    ],
    "refused context used again": [
        (ASSIGN, encode_assign(4, wire(("10.0.0.1", 9)))),
        (ASSIGN, encode_assign(4, wire(PEER))),
    ],
    "second uncompressed context": [(ASSIGN, b"\x04\x00")],
    "second context of a peer": [
        (ASSIGN, encode_assign(4, wire(PEER))),
        (ASSIGN, encode_assign(6, wire(PEER))),
    ],
    "IP version 5": [(ASSIGN, b"\x04\x05\x7f\x00\x00\x01\x00\x09")],
    "address cut short": [(ASSIGN, b"\x04\x04\x7f\x00")],
    "bytes behind the port": [(ASSIGN, encode_assign(4, wire(PEER)) + b"x")],
    "acknowledgement of nothing": [(ACK, b"\x01")],
    "acknowledgement of its own": [(ACK, b"\x02")],
    "close of context 0": [(CLOSE, b"\x00")],
    "close without an id": [(CLOSE, b"")],
    "close with more behind it": [(CLOSE, b"\x02\x02")],
}


class TestBrokenProtocol:
    @pytest.mark.clause(
        "connect-udp-listen-15", "3.1", "MUST", "treat malformed capsules as RFC 9297 section 3.3"
    )
    @pytest.mark.parametrize("capsules", BREAKS.values(), ids=list(BREAKS))
    async def test_malformed_capsule_ends_that_stream_alone(
        self, tmp_path: Path, capsules: list[tuple[int, bytes]]
    ) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            bad, good = await open_listening(relay, "h3"), await open_listening(relay, "h3")
            for kind, value in capsules:
                bad.capsule(kind, value)
            await bad.aborted()
            assert await works(good)
            await relay.audit.until(relay.audit.ends)
            assert relay.audit.ends()[0]["reason"] == EndReason.PROTOCOL_ERROR
            assert relay.dataplane.counters.flows_open == 1

    @every_version
    async def test_malformed_capsule_ends_the_stream_on_every_version(
        self, tmp_path: Path, version: str
    ) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            bad = await open_listening(relay, version)
            bad.capsule(ASSIGN, b"\x03\x00")
            await bad.aborted()
            await relay.audit.until(relay.audit.ends)
            assert relay.audit.ends()[0]["reason"] == EndReason.PROTOCOL_ERROR

    @pytest.mark.clause(
        "connect-udp-listen-15", "3", "MUST", "abort over context 0 where there is no target"
    )
    @every_version
    async def test_context_0_ends_the_stream(self, tmp_path: Path, version: str) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            bad = await open_listening(relay, version)
            bad.send_datagrams([b"\x00" + b"x"])
            await bad.aborted()

    async def test_context_closed_twice_does_no_harm(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            client = await open_listening(relay, "h3")
            assert await client.assign(4, PEER) == ACK
            client.capsule(CLOSE, b"\x04")
            client.capsule(CLOSE, b"\x04")
            assert await works(client)

    async def test_rubbish_datagrams_are_dropped_and_counted(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            client = await open_listening(relay, "h2")
            client.send_datagrams([b"", b"\x40", b"\x09x", b"\x02", b"\x02\x05abc", b"\x02\x04ab"])
            assert await works(client)
            assert relay.tunnels.unknown_context_dropped == 3
            assert relay.bind.malformed_dropped == 3


class TestLimits:
    async def test_contexts_beyond_the_limit_are_rejected(self, tmp_path: Path) -> None:
        limits = BindLimits(contexts=ContextLimits(theirs=4))
        async with running_relay(
            tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND, bind_limits=limits
        ) as relay:
            client = await open_listening(relay, "h3")
            answers = [await client.assign(4 + 2 * n, ("127.0.0.1", 100 + n)) for n in range(6)]
            assert answers == [ACK] * 3 + [CLOSE] * 3
            assert relay.bind.contexts_rejected == 3
            assert await works(client)

    @pytest.mark.clause(
        "connect-udp-listen-15", "9", "MUST", "abort when answers can't leave and pile up"
    )
    async def test_client_that_reads_no_answers_is_cut_off(self, tmp_path: Path) -> None:
        limits = BindLimits(reply_backlog_bytes=2_000)
        async with running_relay(
            tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND, bind_limits=limits
        ) as relay:
            client = await H2Client.connect(relay.https_address, relay.ca_pem)
            head = relay.connect_udp("", "", path=b"/.well-known/masque/udp/%2A/%2A/")
            stream_id, answer = await client.request([*head, (b"connect-udp-bind", b"?1")])
            assert answer.status == 200
            client.stuck.add(stream_id)
            context_id = 2
            while answer.reset is None:
                batch = range(context_id, context_id + 4_000, 2)
                context_id += 4_000
                client.send_data(
                    stream_id,
                    b"".join(
                        encode_capsule(ASSIGN, encode_assign(number, wire(PEER)))
                        + encode_capsule(CLOSE, encode_assign(number, None)[:-1])
                        for number in batch
                    ),
                )
                await client.until(lambda: not client.unsent(stream_id) or answer.reset is not None)
                assert context_id < 1_000_000
            await relay.audit.until(relay.audit.ends)
            assert relay.audit.ends()[0]["reason"] == EndReason.PROTOCOL_ERROR
            neighbour_id, neighbour = await client.request([*head, (b"connect-udp-bind", b"?1")])
            assert neighbour_id != stream_id
            assert neighbour.status == 200

    async def test_flood_to_prohibited_peers_writes_one_record_a_peer(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            client = await open_listening(relay, "h2")
            for _ in range(50):
                client.send_datagrams([plain(2, ("10.0.0.1", 53), b"x")] * 10)
            assert await works(client)
            records = [record for record in relay.audit.records if record["event"] == "address"]
            assert len(records) == 1
            assert relay.bind.denied_dropped == 500

    async def test_client_that_stops_reading_loses_datagrams_and_not_the_relays_memory(
        self, tmp_path: Path
    ) -> None:
        limits = HttpLimits(capsule_backlog_bytes=20_000)
        async with (
            running_relay(
                tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND, http_limits=limits
            ) as relay,
            udp_peer() as peer,
        ):
            client = await H2Client.connect(relay.https_address, relay.ca_pem)
            head = relay.connect_udp("", "", path=b"/.well-known/masque/udp/%2A/%2A/")
            stream_id, answer = await client.request([*head, (b"connect-udp-bind", b"?1")])
            client.send_data(stream_id, encode_capsule(ASSIGN, b"\x02\x00"))
            await client.until(lambda: answer.data)
            client.stuck.add(stream_id)
            public = answer.fields["proxy-public-address"].split('"')[1].rpartition(":")
            # More than stream window and backlog take together, and it must all be seen.
            while not relay.http.capsule_datagrams_dropped:
                for _ in range(50):
                    peer.send(bytes(1_200), (public[0], int(public[2])))
                await asyncio.sleep(0)  # the relay's loop is ours
            assert relay.gate.tunnel_count == 1


PROHIBITED = [
    ("127.0.0.5", 53),
    ("10.0.0.1", 53),
    ("169.254.169.254", 80),
    ("192.168.1.1", 53),
    ("224.0.0.251", 5353),
    ("255.255.255.255", 67),
    ("0.0.0.0", 53),
    ("::ffff:127.0.0.1", 53),
    ("::ffff:169.254.169.254", 80),
    ("fe80::1", 53),
    ("fd00:ec2::254", 80),
    ("64:ff9b::a9fe:a9fe", 80),
    ("ff02::1", 5353),
    ("::", 53),
]

OPEN_POLICY = BIND_POLICY.replace('"127.0.0.1/32:*", ', '"*:*", ')


class TestProhibitedPeers:
    @pytest.mark.parametrize("peer", PROHIBITED, ids=lambda peer: f"{peer[0]}")
    async def test_inside_address_is_no_peer_though_everything_is_allowed(
        self, tmp_path: Path, peer: tuple[str, int]
    ) -> None:
        async with running_relay(tmp_path, policy=OPEN_POLICY, bind=LOOPBACK_BIND) as relay:
            client = await open_listening(relay, "h3")
            assert await client.assign(4, peer) == CLOSE
            client.send_datagrams([plain(2, peer, b"x")] * 3)
            await client.assign(6, ("192.0.2.1", 9))
            await client.until_true(
                lambda: relay.bind.denied_dropped + relay.bind.unreachable_dropped
            )
            assert relay.tunnels.uplink_datagrams == 0


CREDENTIALS = {
    "none": lambda relay: "",
    "not a token": lambda relay: "nonsense",
    "expired": lambda relay: relay.token(issued_before_s=10_000.0),
    "for another relay": lambda relay: relay.token(audience="other"),
}


class TestWhoMayBind:
    @every_version
    @pytest.mark.parametrize("name", list(CREDENTIALS))
    async def test_credential_that_is_no_good_is_401(
        self, tmp_path: Path, version: str, name: str
    ) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            client = await open_bind(relay, version, token=CREDENTIALS[name](relay))
            assert client.status == 401
            assert "proxy-public-address" not in client.fields
            assert relay.dataplane.counters.flows_opened == 0

    @every_version
    @pytest.mark.parametrize("subject", ["carol", "mallory"])
    async def test_subject_without_a_rule_is_403(
        self, tmp_path: Path, version: str, subject: str
    ) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            client = await open_bind(relay, version, token=relay.token(subject))
            assert client.status == 403
            assert relay.dataplane.counters.flows_opened == 0

    @every_version
    async def test_drain_and_revocation_reach_bound_tunnels(
        self, tmp_path: Path, version: str
    ) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            client = await open_listening(relay, version)
            assert relay.gate.revoke(subject="alice", token_id=None) == 1
            await client.aborted()
            await relay.audit.until(relay.audit.ends)
            assert relay.audit.ends()[0]["reason"] == EndReason.REVOKED
            assert relay.dataplane.counters.flows_open == 0
            relay.gate.drain()
            assert (await open_bind(relay, version)).status == 503

    async def test_name_in_a_rule_admits_no_peer(self, tmp_path: Path) -> None:
        policy = BIND_POLICY.replace('"127.0.0.1/32:*", ', '"echo.test:*", ')
        async with running_relay(tmp_path, policy=policy, bind=LOOPBACK_BIND) as relay:
            client = await open_bind(relay, "h3", path=b"/.well-known/masque/udp/echo.test/53/")
            assert client.status == 200
            assert await client.assign(2, PEER) == CLOSE
