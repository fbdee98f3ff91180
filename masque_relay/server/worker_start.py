"""Owns what a worker is told when it starts: JSON, over its channel; descriptors are inherited."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from masque_relay.control.shared_book import BookShape
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.quic.slots import SlotRoutes
from masque_relay.server.source import ConfigSource

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStart:
    """All that a worker must know."""

    source: ConfigSource
    slot: int
    routes: SlotRoutes
    secrets: EndpointSecrets = field(repr=False)
    revocations: object
    """As RevocationList.document gives it."""
    book_shape: BookShape
    book: int
    """A descriptor, as are the following."""
    audit: int
    broker: int
    mailbox: int
    mailbox_writers: tuple[int, ...]
    """By slot."""

    def descriptors(self) -> tuple[int, ...]:
        """Return what the worker must inherit."""
        return (self.book, self.audit, self.broker, self.mailbox, *self.mailbox_writers)

    def encode(self) -> Json:
        """Return it JSON-ready."""
        return {
            "source": encode_source(self.source),
            "slot": self.slot,
            "routes": asdict(self.routes),
            "secrets": encode_secrets(self.secrets),
            "revocations": self.revocations,
            "book_shape": encode_shape(self.book_shape),
            "book": self.book,
            "audit": self.audit,
            "broker": self.broker,
            "mailbox": self.mailbox,
            "mailbox_writers": self.mailbox_writers,
        }

    @classmethod
    def decode(cls, value: Json) -> "WorkerStart":
        """Return what :meth:`encode` gave."""
        return cls(
            source=decode_source(cast("Json", value["source"])),
            slot=cast("int", value["slot"]),
            routes=decode_routes(value["routes"]),
            secrets=decode_secrets(cast("Json", value["secrets"])),
            revocations=value["revocations"],
            book_shape=decode_shape(cast("Json", value["book_shape"])),
            book=cast("int", value["book"]),
            audit=cast("int", value["audit"]),
            broker=cast("int", value["broker"]),
            mailbox=cast("int", value["mailbox"]),
            mailbox_writers=tuple(cast("Sequence[int]", value["mailbox_writers"])),
        )


def encode_source(source: ConfigSource) -> Json:
    """Return a source JSON-ready; paths among the options become text."""
    overrides = [
        [list(key_path), str(value) if isinstance(value, Path) else value]
        for key_path, value in source.overrides.items()
    ]
    return {"path": str(source.path.absolute()), "overrides": overrides}


def decode_source(value: Json) -> ConfigSource:
    """Return what :func:`encode_source` gave."""
    overrides = cast("Sequence[tuple[Sequence[str | int], object]]", value["overrides"])
    return ConfigSource(
        path=Path(cast("str", value["path"])),
        overrides={tuple(key_path): option for key_path, option in overrides},
    )


def decode_routes(value: object) -> SlotRoutes:
    """Return what dataclasses.asdict made of routes."""
    fields = cast("dict[str, int]", value)
    return SlotRoutes(
        worker_count=fields["worker_count"],
        serving_half=fields["serving_half"],
        is_handover=bool(fields["is_handover"]),
    )


def encode_secrets(secrets: EndpointSecrets) -> Json:
    """Return the endpoint's keys as hexadecimal text."""
    return {
        "retry_keys": [key.hex() for key in secrets.retry_keys],
        "reset_key": secrets.reset_key.hex(),
    }


def decode_secrets(value: Json) -> EndpointSecrets:
    """Return what :func:`encode_secrets` gave."""
    return EndpointSecrets(
        retry_keys=tuple(map(bytes.fromhex, cast("Sequence[str]", value["retry_keys"]))),
        reset_key=bytes.fromhex(cast("str", value["reset_key"])),
    )


def encode_shape(shape: BookShape) -> Json:
    """Return a book's shape JSON-ready."""
    return {**asdict(shape), "key": shape.key.hex()}


def decode_shape(value: Json) -> BookShape:
    """Return what :func:`encode_shape` gave."""
    fields = cast("dict[str, int]", {key: count for key, count in value.items() if key != "key"})
    return BookShape(**fields, key=bytes.fromhex(cast("str", value["key"])))
