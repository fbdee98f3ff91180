"""Policy, quota, audit, revocation, kick and drain hold for the mesh as for every tunnel."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.way import WayKind
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode, Restarting
from tests.integration.server.test_operations import ghostctl
from tests.support.ghostwire_world import Recorder
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.mesh_arrival import CARRIERS, arriving, eventually, neighbours, token_of

POLICY = """
[[rule]]
name = "small"
action = "allow"
who = ["small"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["*"]
limits = { tunnels = 1 }

[[rule]]
name = "mesh"
action = "allow"
who = ["dev", "carol", "carol-*"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["dev"]
"""

every_carrier = pytest.mark.parametrize("kind", CARRIERS)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    with managed_relay(tmp_path_factory.mktemp("relay"), policy=POLICY) as running:
        yield running


def audit_of(relay: ManagedRelay, subject: str) -> list[dict[str, Any]]:
    lines = (relay.state.directory / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record.get("subject") == subject]


@every_carrier
async def test_policy_says_whom_a_peer_may_call(relay: ManagedRelay, kind: WayKind) -> None:
    async with (
        arriving(relay, kind, token=token_of(relay, "carol")) as carol,
        arriving(relay, kind, token=token_of(relay, "small")) as forbidden,
        arriving(relay, kind) as allowed,
    ):
        nobody = PeerIdentity.generate().peer_id
        calls = [Recorder() for _ in range(3)]
        for call, callee in zip(
            calls, (allowed.peer.identity.peer_id, forbidden.peer.identity.peer_id, nobody),
            strict=True,
        ):  # fmt: skip
            carol.session.open_channel(ChannelKind.STREAM, call, peer_id=callee)
        await eventually(lambda: calls[0].is_open and calls[1].closed and calls[2].closed)

        assert calls[1].closed == calls[2].closed, "not allowed looks like away"
        assert not forbidden.peer.calls


@every_carrier
async def test_revocation_and_kick_end_the_session_and_are_audited(
    relay: ManagedRelay, kind: WayKind
) -> None:
    async with neighbours(relay) as both:
        async with arriving(relay, kind, token=token_of(relay, "carol")) as carol:
            with relay.admin() as admin:
                (lease,) = [one for one in admin.tunnels() if one["subject"] == "carol"]
                assert lease["method"] == "ghostwire"
                assert admin.kick(str(lease["lease_id"]))
            await eventually(lambda: carol.peer.closed is not None)
            assert carol.peer.closed is not None
            assert carol.peer.closed[0] in {ErrorCode.REVOKED, ErrorCode.NONE}
        await both.go_on()
        await eventually(
            lambda: any(one.get("reason") == "kicked" for one in audit_of(relay, "carol"))
        )


@every_carrier
async def test_revoked_subject_is_out_and_stays_out(relay: ManagedRelay, kind: WayKind) -> None:
    subject = f"carol-{kind}"
    async with neighbours(relay), arriving(relay, kind, token=token_of(relay, subject)) as carol:
        assert not carol.refusal
        with relay.admin() as admin:
            admin.revoke(subject=subject, token_id=None)
        await eventually(lambda: carol.peer.closed is not None)
        async with arriving(relay, kind, token=token_of(relay, subject)) as again:
            assert again.refusal in {"UNAUTHENTICATED", "REVOKED", "DENIED"}


async def test_sessions_are_listed_by_ghostctl(relay: ManagedRelay) -> None:
    async with arriving(relay, WayKind.QUIC) as peer:
        listed = await asyncio.to_thread(ghostctl, relay, "sessions", "--json")
        tunnels = json.loads(listed.stdout)["tunnels"]
        assert [one["transport"] for one in tunnels if one["method"] == "ghostwire"]
        assert peer.session.is_open


async def test_drain_tells_every_carrier_that_the_relay_will_be_back(tmp_path: Path) -> None:
    slow = {"GHOSTWIRE__DRAIN__DEADLINE_S": "2"}
    with managed_relay(tmp_path, policy=POLICY, environ=slow) as relay:
        async with (
            arriving(relay, WayKind.H3) as h3,
            arriving(relay, WayKind.QUIC) as quic,
            arriving(relay, WayKind.H2) as h2,
            arriving(relay, WayKind.WEBSOCKET) as websocket,
        ):
            relay.process.terminate()
            for arrival in (h3, quic, h2, websocket):
                frames = arrival.peer.frames
                await eventually(
                    lambda frames=frames: any(isinstance(f, Restarting) for f in frames)
                )
            for arrival in (h3, quic, h2, websocket):
                await eventually(lambda arrival=arrival: arrival.peer.closed is not None)


@every_carrier
async def test_quota_of_sessions_holds(relay: ManagedRelay, kind: WayKind) -> None:
    token = token_of(relay, "small")
    async with arriving(relay, kind, token=token) as first:
        assert not first.refusal
        async with arriving(relay, kind, token=token) as second:
            assert second.refusal
        assert first.session.is_open
