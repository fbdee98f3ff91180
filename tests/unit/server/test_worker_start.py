"""What a worker is told arrives as it was meant."""

from pathlib import Path

import orjson

from masque_relay.control.shared_book import BookShape
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.quic.slots import SlotRoutes
from masque_relay.server.source import ConfigSource
from masque_relay.server.worker_start import WorkerStart


def test_it_survives_json() -> None:
    start = WorkerStart(
        source=ConfigSource(
            path=Path("/etc/relay.toml"),
            overrides={("listen", "h3"): "127.0.0.1:0", ("workers",): 2},
        ),
        slot=3,
        routes=SlotRoutes(worker_count=2, serving_half=1, is_handover=True),
        secrets=EndpointSecrets.generate(),
        revocations={"subjects": ["mallory"], "token_ids": {"t1": 1e9}},
        book_shape=BookShape.for_limits(4, max_tunnels=10, tracked_count=10),
        book=7,
        audit=8,
        broker=9,
        mailbox=10,
        mailbox_writers=(11, 12, 13, 14),
    )
    assert WorkerStart.decode(orjson.loads(orjson.dumps(start.encode()))) == start
    assert set(start.descriptors()) == set(range(7, 15))


def test_paths_among_the_options_become_text() -> None:
    source = ConfigSource(path=Path("/a"), overrides={("quic", "qlog_dir"): Path("/tmp/qlog")})  # noqa: S108 (a name)
    start = WorkerStart(
        source=source,
        slot=0,
        routes=SlotRoutes(worker_count=2, serving_half=0, is_handover=False),
        secrets=EndpointSecrets.generate(),
        revocations={},
        book_shape=BookShape.for_limits(4, max_tunnels=10, tracked_count=10),
        book=1,
        audit=1,
        broker=1,
        mailbox=1,
        mailbox_writers=(),
    )
    decoded = WorkerStart.decode(orjson.loads(orjson.dumps(start.encode())))
    assert decoded.source.overrides == {("quic", "qlog_dir"): "/tmp/qlog"}  # noqa: S108 (a name)
    assert "retry_keys" not in repr(start)
