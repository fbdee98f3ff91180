"""Owns what a supervisor holds for its workers: made at the start, taken over, or left behind."""

import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from masque_relay.admin.listener import AdminListener
from masque_relay.config import RelayConfig
from masque_relay.control.audit import AuditWriter
from masque_relay.control.gate_build import open_revocations
from masque_relay.control.revocation import RevocationList
from masque_relay.control.shared_book import BookShape, SharedBook, make_book_file
from masque_relay.quic.slots import SlotRoutes
from masque_relay.server.broker import SocketPool
from masque_relay.server.crew import Crew, CrewShare
from masque_relay.server.fleet import Fleet
from masque_relay.server.material import Material
from masque_relay.server.neighbours import Mailboxes
from masque_relay.server.parts import bind_admin
from masque_relay.server.source import ConfigSource
from masque_relay.server.worker_start import (
    Json,
    decode_routes,
    decode_secrets,
    decode_shape,
    encode_secrets,
    encode_shape,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """All of it."""

    share: CrewShare
    routes: SlotRoutes
    generation: int

    def close(self) -> None:
        """Close every socket and the book."""
        self.share.pool.close()
        self.share.mailboxes.close()
        self.share.book.close()


def make_estate(
    config: RelayConfig,
    source: ConfigSource,
    material: Material,
    audit: AuditWriter,
    *,
    worker_count: int,
) -> Estate:
    """Return what a relay that starts afresh needs; nothing listens yet.

    Raises:
        ConfigError: the revocations can't be read.
    """
    revocations = open_revocations(config.gate)
    routes = SlotRoutes(worker_count=worker_count, serving_half=0, is_handover=False)
    limits = config.gate.limits
    shape = BookShape.for_limits(
        routes.slot_count, max_tunnels=limits.max_tunnels, tracked_count=limits.tracked_subjects
    )
    descriptor = make_book_file(shape)
    share = CrewShare(
        source=source,
        secrets=material.secrets,
        pool=SocketPool(routes),
        mailboxes=Mailboxes.make(routes.slot_count),
        book=SharedBook(descriptor, shape, segment=routes.slot_count),
        book_descriptor=descriptor,
        book_shape=shape,
        revocations=revocations,
        audit=audit,
    )
    return Estate(share=share, routes=routes, generation=0)


def take_estate(
    state: Json, config: RelayConfig, source: ConfigSource, material: Material, audit: AuditWriter
) -> Estate:
    """Return what another supervisor left.

    Raises:
        ConfigError: the revocations can't be read.
    """
    for descriptor in _descriptors(state):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 (the system call's own form)
    routes = decode_routes(state["routes"])
    if config.gate.revocations_file is None:
        revocations = RevocationList.from_document(
            state["revocations"], max_entries=config.gate.limits.revocations
        )
    else:
        revocations = open_revocations(config.gate)
    pool = SocketPool(routes)
    pool.adopt(cast("list[object]", state["pool"]))
    shape = decode_shape(cast("Json", state["book_shape"]))
    descriptor = cast("int", state["book"])
    audit.dropped_count += cast("int", state["audit_lost"])
    share = CrewShare(
        source=source,
        # Made at the first start, unless the configuration has them.
        secrets=material.secrets
        if config.listen.secret_files
        else decode_secrets(cast("Json", state["secrets"])),
        pool=pool,
        mailboxes=Mailboxes.adopt(cast("list[list[int]]", state["mailboxes"])),
        book=SharedBook(descriptor, shape, segment=routes.slot_count),
        book_descriptor=descriptor,
        book_shape=shape,
        revocations=revocations,
        audit=audit,
    )
    return Estate(share=share, routes=routes, generation=cast("int", state["generation"]))


async def leave_estate(
    estate: Estate, crew: Crew, fleet: Fleet, admin_url: str, admin: socket.socket
) -> Json:
    """Let go of everything; return the state for who follows, its descriptors inheritable."""
    share = estate.share
    state: Json = {
        "workers": await crew.release(),
        "routes": asdict(crew.routes),
        "generation": crew.generation,
        "secrets": encode_secrets(share.secrets),
        "revocations": share.revocations.document(),
        "book_shape": encode_shape(share.book_shape),
        "book": share.book_descriptor,
        "pool": share.pool.export(),
        "mailboxes": share.mailboxes.descriptors(),
        "admin": admin.fileno(),
        "admin_url": admin_url,
        "retired": crew.retired_metrics(),
        "ends": _listed(crew.ends),
        "restarts": _listed(fleet.restarts),
        "reloads": _listed(fleet.reloads),
        "audit_lost": share.audit.lost_count,
    }
    for descriptor in _descriptors(state):
        os.set_inheritable(descriptor, True)  # noqa: FBT003 (the system call's own form)
    return state


def take_admin(state: Json, config: RelayConfig) -> AdminListener:
    """Return the admin listener that was left, or another one where the configuration moved it.

    Raises:
        ConfigError: the new address can't be used.
    """
    listening = socket.socket(fileno=cast("int", state["admin"]))
    taken = AdminListener(config.admin.listen, listening=listening)
    if taken.url == state["admin_url"]:
        return taken
    taken.leaves_path = True
    taken.close()
    return bind_admin(config)


def take_counts(state: Json, crew: Crew, fleet: Fleet) -> None:
    """Go on counting where the other supervisor ended."""
    crew.add_retired(cast("list[object]", state["retired"]))
    for counter, name in (
        (crew.ends, "ends"),
        (fleet.restarts, "restarts"),
        (fleet.reloads, "reloads"),
    ):
        for result, count in cast("list[tuple[str, int]]", state[name]):
            counter[result,] += count


def _listed(counter: Counter[tuple[str, ...]]) -> list[list[object]]:
    return [[result, count] for (result,), count in counter.items()]


def _descriptors(state: Json) -> Iterator[int]:
    yield cast("int", state["book"])
    yield cast("int", state["admin"])
    for _, descriptors in cast("Sequence[tuple[object, Sequence[int]]]", state["pool"]):
        yield from descriptors
    for pair in cast("Sequence[Sequence[int]]", state["mailboxes"]):
        yield from pair
    for worker in cast("Sequence[dict[str, int]]", state["workers"]):
        yield worker["control"]
        yield worker["audit"]
