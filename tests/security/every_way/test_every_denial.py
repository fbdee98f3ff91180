"""Reason x way: what a client hears of each denial, the audit trail, and the neighbours.

The table is in denial_table.py. A new DenyReason or Way has no row there, and fails here.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import assert_never

import pytest
import pytest_asyncio
from argon2 import PasswordHasher

from masque_relay.admin.client import AdminClient
from masque_relay.client import Basic, Bearer, RelayAddress, RelayClient, RelayOptions, make_target
from masque_relay.client.errors import TunnelClosed, TunnelRefused
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.ways import DEFAULT_ORDER
from masque_relay.config.dev_state import DevState
from masque_relay.contract.request import Transport
from masque_relay.contract.verdict import DenyReason
from tests.security.every_way.denial_table import (
    HEARD,
    IMPOSSIBLE,
    PAIRS,
    UNAUDITED,
    Pair,
    heard_at,
)
from tests.support.company import TUNNELS, Company, company
from tests.support.every_way import Family, Way
from tests.support.every_way_relay import EveryWayRelay, every_way_relay, time_limited
from tests.support.knocks import METADATA, Shown, Visit, knocking, visit_of
from tests.support.mesh_arrival import WAIT_S
from tests.support.processes import TIMESCALE
from tests.support.turn_client import Credentials

pytestmark = pytest.mark.asyncio(loop_scope="module")

PORT = 9
"""Nobody needs to be there: UDP tunnels open all the same."""
TARGET = ("127.0.0.1", PORT)
BURST = 60
"""Opens of one subject; no other subject of these tests comes near it."""
SLOW_PASSES = int(40 * TIMESCALE)
"""Of argon2: about a second, which all the others have to arrive within."""
PASSWORD = "correct horse"

RATES = f"""
[gate.limits]
opens_per_s = 0.01
open_burst = {BURST}
"""
CAP = f"""
[gate.limits]
max_tunnels = {TUNNELS}
"""
PASSWORDS = """
[gate.basic]
users_file = "users.toml"
verify_timeout_s = 60.0
max_pending_per_source = 32
"""


_SUBJECTS = {
    DenyReason.REVOKED: "revoked",
    DenyReason.POLICY: "outsider",
    DenyReason.TUNNEL_QUOTA: "full",
    DenyReason.OPEN_RATE: "hasty",
    DenyReason.BYTE_QUOTA: "spender",
}
"""Whom a reason is brought about for."""


class Stage:
    """A relay where some denials can be brought about, and the neighbours on it."""

    def __init__(self, relay: EveryWayRelay, neighbours: Company) -> None:
        self.relay = relay
        self.neighbours = neighbours

    async def heard(self, way: Way, shown: Shown, *, host: str = "127.0.0.1") -> str:
        """Knock, leave, and return what was heard."""
        async with knocking(self.relay.door(way), shown, host=host, port=PORT) as heard:
            return heard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    """A relay with room, where some subjects have used up what they may."""
    async with AsyncExitStack() as stack:
        relay = stack.enter_context(every_way_relay(tmp_path_factory.mktemp("relay"), config=RATES))
        neighbours = await stack.enter_async_context(company(relay))
        with relay.relay.admin() as admin:
            admin.revoke(subject="revoked", token_id=None)
        full = knocking(relay.door(Way.MASQUE_H2), relay.bearer("full"), port=PORT)
        assert await stack.enter_async_context(full) == ""
        await _spend(relay)
        await _hurry(relay)
        yield Stage(relay, neighbours)


async def _spend(relay: EveryWayRelay) -> None:
    """Use up the bytes of ``spender`` through one tunnel, which the relay then ends."""
    async with _client(relay, "spender") as client, client.open_udp("127.0.0.1", PORT) as tunnel:
        tunnel.send(bytes(1_100))
        with pytest.raises(TunnelClosed):
            async with asyncio.timeout(WAIT_S):
                await tunnel.receive()


async def _hurry(relay: EveryWayRelay) -> None:
    """Let ``hasty``, whom no rule allows anything, ask until it is too often."""
    statuses: list[int] = []
    async with _client(relay, "hasty") as client:
        while len(statuses) <= BURST:
            with pytest.raises(TunnelRefused) as refused:
                await client.start_udp(make_target("127.0.0.1", PORT))
            statuses.append(refused.value.status)
    assert statuses == [403] * BURST + [429]


def _client(relay: EveryWayRelay, subject: str) -> RelayClient:
    options = RelayOptions(ca_file=relay.relay.ca_file, credential=relay.bearer(subject))
    return RelayClient(RelayAddress.parse(relay.relay.url), options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    """A relay whose cap its neighbours fill."""
    directory = tmp_path_factory.mktemp("full-relay")
    with every_way_relay(directory, config=CAP) as relay:
        async with company(relay) as neighbours:
            yield Stage(relay, neighbours)


Farewell = Mapping[Way, tuple[str, Mapping[str, object]]]
"""What was heard at each way, and the record in the audit trail."""


def slow_password(state: DevState) -> None:
    """Let ``slow`` hold up everybody else's password: one thread checks them in turn."""
    hashed = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    # Nobody's password any more; to find that out takes as long as if it were somebody's.
    costly = hashed.replace("m=64,t=1", f"m=65536,t={SLOW_PASSES}")
    assert costly != hashed
    users = (("slow", costly), ("guest", hashed))
    (state.directory / "users.toml").write_text(
        "".join(f'[user.{name}]\npassword_hash = "{text}"\n' for name, text in users)
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farewell(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Farewell]:
    """Knock at every way of a relay that begins to drain.

    Then it takes no connections: who hears of the gate's refusal has come before. An HTTP request
    has to be under way, and a password that is being checked keeps it there.
    """
    directory = tmp_path_factory.mktemp("leaving-relay")
    with every_way_relay(directory, config=PASSWORDS, change=slow_password) as relay:
        async with company(relay) as neighbours, AsyncExitStack() as stack:
            visits = {way: visit_of(relay.door(way), _shown_to_leaving(relay, way)) for way in Way}
            for visit in visits.values():
                stack.push_async_callback(visit.close)
                await visit.connect()
            yield await _drain(relay, neighbours, visits)


def _shown_to_leaving(relay: EveryWayRelay, way: Way) -> Shown:
    if way.family in {Family.MASQUE, Family.GHOSTWIRE} and not way.asks_late:
        return Basic(user="guest", password=PASSWORD)
    return relay.shown_by("guest", way)


async def _drain(
    relay: EveryWayRelay, neighbours: Company, visits: Mapping[Way, Visit]
) -> Farewell:
    mark = relay.audit()
    blocker = visit_of(relay.door(Way.MASQUE_H2), Basic(user="slow", password=PASSWORD))
    await blocker.connect()
    with relay.relay.admin() as admin:
        count = int(str(admin.status()["requests"]))
        async with asyncio.TaskGroup() as group:
            held_up = group.create_task(blocker.ask(*TARGET))
            await _until_requests(admin, count + 1)
            asked = {
                way: group.create_task(visit.ask(*TARGET))
                for way, visit in visits.items()
                if isinstance(_shown_to_leaving(relay, way), Basic)
            }
            await _until_requests(admin, count + 1 + len(asked))
            assert not held_up.done()
            admin.drain(deadline_s=60)
    await blocker.close()
    blocked, *records = mark.decisions(count=1 + len(asked))
    assert blocked["reason"] == DenyReason.CREDENTIAL_INVALID
    farewell: dict[Way, tuple[str, dict[str, object]]] = {}
    for way, task in asked.items():
        record = next(r for r in records if (r["transport"], r["method"]) == way.audited_as)
        records.remove(record)
        farewell[way] = task.result(), record
    for way in visits.keys() - asked.keys():
        mark = relay.audit()
        heard = await visits[way].ask(*TARGET)
        (record,) = mark.decisions(count=1)
        farewell[way] = heard, record
    for family in Family:
        await neighbours.goes_on(family)
    return farewell


async def _until_requests(admin: AdminClient, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while int(str(admin.status()["requests"])) < count:  # noqa: ASYNC110  (of a process)
            await asyncio.sleep(0.02)


def _ids(pairs: Sequence[Pair]) -> list[str]:
    return [f"{reason}-{way}" for reason, way in pairs]


@pytest.mark.parametrize(
    ("reason", "way"),
    [pair for pair in PAIRS if pair[0] is not DenyReason.DRAINING],
    ids=_ids([pair for pair in PAIRS if pair[0] is not DenyReason.DRAINING]),
)
async def test_denial_is_heard_audited_and_harms_no_neighbour(
    stage: Stage, full_stage: Stage, reason: DenyReason, way: Way
) -> None:
    where = full_stage if reason is DenyReason.OVERLOADED else stage
    mark = where.relay.audit()
    assert await _provoke(where, reason, way) == heard_at(reason, way)
    if (reason, way) in UNAUDITED:
        # The trail is written by a thread: somebody who comes later is in it, and he alone.
        reason = DenyReason.POLICY
        await _provoke(where, reason, way)
    (record,) = mark.decisions(count=1, result="deny")
    assert record["reason"] == reason
    transport, method = way.audited_as
    assert record["transport"] == transport
    if reason is not DenyReason.ADDRESS_PROHIBITED:  # a request of its own in a Ghostwire session
        assert record["method"] == method
    await where.neighbours.goes_on(way.family)


async def _provoke(stage: Stage, reason: DenyReason, way: Way) -> str:
    """Bring a denial about; return what the client hears."""
    host = METADATA if reason is DenyReason.ADDRESS_PROHIBITED else TARGET[0]
    return await stage.heard(way, _shown_for(stage.relay, reason, way), host=host)


def _shown_for(relay: EveryWayRelay, reason: DenyReason, way: Way) -> Shown:
    """Return what brings a denial about, on the stage that is set for it."""
    match reason:
        case DenyReason.CREDENTIAL_MISSING:
            return None
        case DenyReason.CREDENTIAL_INVALID:
            return _forged(relay, way)
        case DenyReason.CREDENTIAL_EXPIRED:
            return _expired(relay, way)
        case DenyReason.CREDENTIAL_AUDIENCE:
            return _foreign(relay, way)
        case DenyReason.ADDRESS_PROHIBITED | DenyReason.OVERLOADED | DenyReason.DRAINING:
            return relay.shown_by("guest", way)
        case (
            DenyReason.REVOKED
            | DenyReason.POLICY
            | DenyReason.TUNNEL_QUOTA
            | DenyReason.OPEN_RATE
            | DenyReason.BYTE_QUOTA
        ):
            return relay.shown_by(_SUBJECTS[reason], way)
        case _:
            assert_never(reason)


def _forged(relay: EveryWayRelay, way: Way) -> Shown:
    match way.family:
        case Family.MASQUE | Family.GHOSTWIRE:
            head, _, signature = (relay.bearer("guest").token or "").rpartition(".")
            return Bearer(token=f"{head}.{signature[::-1]}")
        case Family.TURN:
            return time_limited("guest", secret="another secret")
        case Family.DERP:
            return relay.keys["mallory"]
        case _:
            assert_never(way.family)


def _expired(relay: EveryWayRelay, way: Way) -> Shown:
    if way.family is Family.TURN:
        return time_limited("guest", lifetime_s=-1)
    return relay.bearer("guest", lifetime_s=10, age_s=3_600)


def _foreign(relay: EveryWayRelay, way: Way) -> Shown:
    bearer = relay.bearer("guest", audience="elsewhere")
    if way.family is not Family.TURN:
        return bearer
    return Credentials(username=bearer.token or "", password=bearer.token or "")


@pytest.mark.parametrize("way", [way for reason, way in PAIRS if reason is DenyReason.DRAINING])
async def test_relay_that_drains_says_so_and_its_tunnels_go_on(
    farewell: Farewell, way: Way
) -> None:
    heard, record = farewell[way]
    assert heard == heard_at(DenyReason.DRAINING, way)
    assert (record["transport"], record["method"]) == way.audited_as
    assert record["reason"] == DenyReason.DRAINING


@pytest.mark.parametrize(("reason", "way"), IMPOSSIBLE, ids=_ids(list(IMPOSSIBLE)))
async def test_exception_is_one_as_far_as_a_machine_can_tell(
    stage: Stage, reason: DenyReason, way: Way
) -> None:
    exception = IMPOSSIBLE[reason, way]
    assert exception.because
    if exception.instead is None:
        assert exception.module is not None
        assert exception.lacks
        assert exception.lacks not in inspect.getsource(exception.module)
        return
    mark = stage.relay.audit()
    assert await _provoke(stage, reason, way) == heard_at(exception.instead, way)
    (record,) = mark.decisions(count=1, result="deny")
    assert record["reason"] == exception.instead


async def test_every_pair_is_either_shown_or_excepted() -> None:
    assert set(HEARD) == set(DenyReason)
    for reason in DenyReason:
        for way in Way:
            is_shown = bool(heard_at(reason, way))
            assert is_shown == ((reason, way) in PAIRS), (reason, way)
            assert is_shown != ((reason, way) in IMPOSSIBLE), (reason, way)
    assert UNAUDITED.keys() <= set(PAIRS)


async def test_every_transport_of_the_relay_has_a_way() -> None:
    assert {way.audited_as[0] for way in Way} == {transport.value for transport in Transport}
    carriers = {way.carrier for way in Way if way.family is Family.GHOSTWIRE}
    # What comes by TURN is QUIC to the relay, from the TURN server's address.
    assert carriers == set(DEFAULT_ORDER) - {WayKind.TURN}
