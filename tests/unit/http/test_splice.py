"""A running splice: the bulk path between a stream and a session."""

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import WireError
from tests.support.http_fakes import GET_HEAD, settle
from tests.support.http_rig import AppCall, Rig, ScriptedApp, serving


class RecordingSession:
    """A TunnelSession that records, and raises when it is told to."""

    capsule_types = frozenset({0x11})

    def __init__(self) -> None:
        self.carrier: Carrier | None = None
        self.batches: list[list[bytes]] = []
        self.capsules: list[tuple[int, bytes]] = []
        self.ends: list[EndReason] = []
        self.error: Exception | None = None

    def attach(self, carrier: Carrier) -> None:
        self.carrier = carrier

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        if self.error is not None:
            raise self.error
        self.batches.append(list(payloads))

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.capsules.append((capsule_type, value))

    def ended(self, reason: EndReason) -> None:
        self.ends.append(reason)


async def spliced(rig: Rig, app: ScriptedApp, session: RecordingSession, **more: Any) -> AppCall:
    """Open a tunnel and hand it to the session."""
    await rig.open_tunnel()
    call = app.calls[-1]
    await call.start(200)
    await call.send({"type": "http.splice", "kind": "flow", "sink": session, **more})
    return call


class TestDatagrams:
    async def test_they_go_both_ways_without_the_application(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session)
            rig.peer.datagrams_received(0, [b"\0one", b"\0two"])
            assert session.carrier is not None
            session.carrier.send_datagrams(b"\0", [b"back"])

            assert session.batches == [[b"\0one", b"\0two"]]
            assert rig.transport.datagrams == [(0, b"\0back")]
            call.finish()

    async def test_what_waited_comes_first(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            await rig.open_tunnel()
            rig.peer.datagrams_received(0, [b"\0early"])
            wire = encode_capsule(0x11, b"assign") + encode_capsule(0, b"\0capsule")
            rig.peer.data_received(0, wire, end_stream=False)
            call = app.calls[-1]
            await call.start(200)
            assert 0 not in rig.transport.consumed
            await call.send({"type": "http.splice", "kind": "flow", "sink": session})

            assert session.batches == [[b"\0early"], [b"\0capsule"]]
            assert session.capsules == [(0x11, b"assign")]
            assert rig.transport.consumed[0] == len(wire)
            call.finish()

    async def test_end_that_waited_ends_the_splice(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            await rig.open_tunnel()
            rig.peer.data_received(0, b"", end_stream=True)
            call = app.calls[-1]
            await call.start(200)
            await call.send({"type": "http.splice", "kind": "flow", "sink": session})

            assert (await call.receive())["reason"] == "peer_closed"
            call.finish()

    async def test_a_run_of_datagram_capsules_is_one_batch(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session)
            wire = encode_capsule(0, b"\0a") + encode_capsule(0, b"\0b")
            wire += encode_capsule(0x11, b"x") + encode_capsule(0x77, b"grease")
            wire += encode_capsule(0, b"\0c")
            rig.peer.data_received(0, wire, end_stream=False)

            assert session.batches == [[b"\0a", b"\0b"], [b"\0c"]]
            assert session.capsules == [(0x11, b"x")]
            assert rig.counters.capsules_received == 4
            assert rig.counters.capsules_skipped == 1
            call.finish()


class TestEnd:
    @pytest.mark.parametrize(
        ("cause", "reason"),
        [
            ("fin", "peer_closed"),
            ("reset", "peer_reset"),
            ("lost", "connection_lost"),
            ("finish", "finished"),
            ("abort", "revoked"),
            ("truncated", "protocol_error"),
        ],
    )
    async def test_every_end_is_reported_once_with_figures(self, cause: str, reason: str) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session)
            rig.peer.datagrams_received(0, [b"\0one", b"\0three"])
            assert session.carrier is not None
            session.carrier.send_datagrams(b"\0", [b"back", bytes(5_000)])
            match cause:
                case "fin":
                    rig.peer.data_received(0, b"", end_stream=True)
                case "reset":
                    rig.peer.stream_reset_received(0, 0x10C)
                case "lost":
                    rig.peer.connection_lost(0x100, "")
                case "finish":
                    session.carrier.finish()
                case "abort":
                    session.carrier.abort(EndReason.REVOKED)
                case _:
                    rig.peer.data_received(0, b"\0\x09abc", end_stream=True)

            done = await call.receive()
            assert done["type"] == "http.splice.done"
            assert done["reason"] == reason
            assert (done["rx_packets"], done["rx_bytes"]) == (2, 10)
            assert (done["tx_packets"], done["drops"]) == (1, 1)
            assert (await call.receive())["type"] in {"http.disconnect", "http.request"}
            assert len(session.ends) == 1
            rig.peer.datagrams_received(0, [b"\0late"])
            assert session.batches == [[b"\0one", b"\0three"]]
            call.finish()

    async def test_returning_application_ends_its_splice(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session)
            call.finish()
            await settle()

            assert session.ends == [EndReason.PEER_CLOSED]
            assert 0 in rig.transport.finished

    async def test_raising_application_ends_its_splice_with_a_reset(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session)
            with capture_logs():
                call.finish(ValueError("bug"))
                await settle()

            assert session.ends == [EndReason.BUG]
            assert rig.transport.resets == {0: 0x102}


class TestBugsOfSessions:
    @pytest.mark.parametrize("way", ["datagram", "capsule", "other capsule"])
    async def test_raising_session_ends_its_tunnel_and_no_other(self, way: str) -> None:
        app, session, neighbour = ScriptedApp(), RecordingSession(), RecordingSession()
        async with serving(app) as rig:
            first = await spliced(rig, app, session)
            await rig.open_tunnel(4)
            second = app.calls[-1]
            await second.start(200)
            await second.send({"type": "http.splice", "kind": "flow", "sink": neighbour})
            session.error = ValueError("bug")
            with capture_logs() as logs:
                if way == "datagram":
                    rig.peer.datagrams_received(0, [b"\0x"])
                else:
                    kind = 0 if way == "capsule" else 0x11
                    rig.peer.data_received(0, encode_capsule(kind, b"\0x"), end_stream=False)
            rig.peer.datagrams_received(4, [b"\0fine"])

            assert rig.transport.resets == {0: 0x102}
            assert session.ends == [EndReason.BUG]
            assert neighbour.batches == [[b"\0fine"]]
            assert [record["event"] for record in logs] == ["tunnel session raised"]
            assert rig.counters.application_errors == 1
            for call in (first, second):
                call.finish()

    @pytest.mark.clause("RFC 9297", "3.3", "MUST", "treat a broken capsule as a malformed message")
    async def test_protocol_error_of_a_capsule_aborts_the_stream(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session)
            session.error = WireError("context 0 assigned", section="draft section 4")
            rig.peer.data_received(0, encode_capsule(0x11, b"x"), end_stream=False)

            assert rig.transport.resets == {0: 0x10E}
            assert session.ends == [EndReason.PROTOCOL_ERROR]
            call.finish()


class TestLimits:
    async def test_idle_splice_ends_cleanly_within_a_quarter_more(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session, limits={"idle": 100})
            rig.peer.datagrams_received(0, [b"\0x"])
            for _ in range(4):
                rig.pass_idle_time(25)
            assert not session.ends
            rig.pass_idle_time(25)

            assert (await call.receive())["reason"] == "idle"
            assert session.ends == [EndReason.IDLE]
            assert 0 in rig.transport.finished
            call.finish()

    async def test_traffic_in_either_direction_keeps_it_alive(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session, limits={"idle": 100})
            assert session.carrier is not None
            for number in range(10):
                if number % 2:
                    rig.peer.datagrams_received(0, [b"\0x"])
                else:
                    session.carrier.send_datagrams(b"\0", [b"x"])
                for _ in range(3):
                    rig.pass_idle_time(25)

            assert not session.ends
            call.finish()

    async def test_rate_drops_and_counts(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            limits = {"rate": 100, "burst": 10}
            call = await spliced(rig, app, session, limits=limits)
            rig.peer.datagrams_received(0, [b"\0" + bytes(5), b"\0" + bytes(5)])
            assert [len(batch) for batch in session.batches] == [1]
            rig.clock.now_s += 1
            rig.peer.datagrams_received(0, [b"\0again"])
            assert session.carrier is not None
            session.carrier.send_datagrams(b"\0", [bytes(5), bytes(5)])
            session.carrier.finish()

            done = await call.receive()
            assert (done["rx_packets"], done["tx_packets"], done["drops"]) == (3, 1, 2)
            call.finish()

    async def test_byte_budget_ends_it(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session, limits={"bytes": 10})
            rig.peer.datagrams_received(0, [bytes(6)])
            rig.peer.datagrams_received(0, [bytes(6)])

            assert (await call.receive())["reason"] == "byte_quota"
            assert session.batches == [[bytes(6)]]
            assert rig.transport.resets == {0: 0x10C}
            call.finish()

    async def test_hook_sees_changes_and_drops_payloads(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        seen: list[tuple[str, bytes]] = []

        def hook(direction: str, payload: bytes) -> bytes | None:
            seen.append((direction, payload))
            return None if payload == b"\0drop" else payload.upper()

        async with serving(app) as rig:
            call = await spliced(rig, app, session, on_payload=hook)
            rig.peer.datagrams_received(0, [b"\0up", b"\0drop"])
            assert session.carrier is not None
            session.carrier.send_datagrams(b"\0", [b"down"])

            assert session.batches == [[b"\0UP"]]
            assert rig.transport.datagrams == [(0, b"\0DOWN")]
            assert seen == [("rx", b"\0up"), ("rx", b"\0drop"), ("tx", b"\0down")]
            call.finish()


class TestRequests:
    @pytest.mark.parametrize(
        "message",
        [
            {"type": "http.splice", "kind": "ip", "sink": RecordingSession()},
            {"type": "http.splice", "kind": "flow"},
            {"type": "http.splice", "kind": "tcp"},
            {
                "type": "http.splice",
                "kind": "tcp",
                "sink": RecordingSession(),
                "limits": {"rate": 1_000},
            },
        ],
    )
    async def test_splice_that_makes_no_sense_is_refused(self, message: dict[str, Any]) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.open_tunnel()
            await app.calls[0].start(200)

            with pytest.raises(RuntimeError):
                await app.calls[0].send(message)
            app.calls[0].finish()

    async def test_second_splice_and_body_during_one_are_refused(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            call = await spliced(rig, app, session)
            with pytest.raises(RuntimeError, match="twice"):
                await call.send({"type": "http.splice", "kind": "flow", "sink": session})
            with pytest.raises(RuntimeError, match="during a splice"):
                await call.body(b"x", more=True)
            call.finish()

    async def test_splice_of_an_ordinary_request_is_refused(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD)
            await app.calls[0].start(200)
            with pytest.raises(RuntimeError, match="outside an open tunnel"):
                await app.calls[0].send({"type": "http.splice", "kind": "flow", "sink": 1})
            app.calls[0].finish()


class Reports(list[Message]):
    """Takes what ``on_done`` is called with."""

    def __call__(self, message: Message) -> None:
        self.append(message)


class TestWithoutItsApplication:
    """``on_done`` lets the application return while its splice goes on."""

    @staticmethod
    async def left(rig: Rig, app: ScriptedApp, session: RecordingSession) -> Reports:
        reports = Reports()
        call = await spliced(rig, app, session, on_done=reports)
        call.finish()
        await settle()
        return reports

    async def test_splice_goes_on_and_counts_as_a_request(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            reports = await self.left(rig, app, session)
            rig.peer.datagrams_received(0, [b"\0one"])
            assert session.carrier is not None
            session.carrier.send_datagrams(b"\0", [b"back"])

            assert session.batches == [[b"\0one"]]
            assert rig.transport.datagrams == [(0, b"\0back")]
            assert rig.front_end.request_count == 1
            assert 0 not in rig.transport.finished
            assert not reports

    async def test_end_by_the_client_is_reported_and_the_stream_finished(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            reports = await self.left(rig, app, session)
            rig.peer.data_received(0, b"", end_stream=True)
            await settle()

            assert [report["reason"] for report in reports] == ["peer_closed"]
            assert session.ends == [EndReason.PEER_CLOSED]
            assert 0 in rig.transport.finished
            assert rig.front_end.request_count == 0

    async def test_reset_by_the_client_is_reported(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            reports = await self.left(rig, app, session)
            rig.peer.stream_reset_received(0, 0x10C)
            await settle()

            assert [report["reason"] for report in reports] == ["peer_reset"]
            assert rig.front_end.request_count == 0

    async def test_end_by_the_session_finishes_the_stream(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            reports = await self.left(rig, app, session)
            assert session.carrier is not None
            session.carrier.finish()
            await settle()

            assert [report["reason"] for report in reports] == ["finished"]
            assert 0 in rig.transport.finished
            assert rig.front_end.request_count == 0

    async def test_drain_waits_for_it_and_ends_it_at_the_deadline(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            reports = await self.left(rig, app, session)
            await rig.front_end.drain(grace_s=0.01)

            assert [report["reason"] for report in reports] == ["drained"]
            assert rig.front_end.request_count == 0
            assert rig.transport.closed == (0x100, "")

    async def test_splice_that_is_over_before_the_application_returns(self) -> None:
        app, session, reports = ScriptedApp(), RecordingSession(), Reports()
        async with serving(app) as rig:
            call = await spliced(rig, app, session, on_done=reports)
            rig.peer.data_received(0, b"", end_stream=True)
            assert [report["reason"] for report in reports] == ["peer_closed"]
            call.finish()
            await settle()

            assert len(reports) == 1
            assert 0 in rig.transport.finished
            assert rig.front_end.request_count == 0

    async def test_report_that_raises_is_logged_and_its_tunnel_ends_alone(self) -> None:
        app, session, neighbour = ScriptedApp(), RecordingSession(), RecordingSession()

        def fail(message: Message) -> None:
            raise RuntimeError("no")

        async with serving(app) as rig:
            (await spliced(rig, app, session, on_done=fail)).finish()
            await rig.open_tunnel(4)
            await app.calls[-1].start(200)
            await app.calls[-1].send({"type": "http.splice", "kind": "flow", "sink": neighbour})
            with capture_logs() as logs:
                rig.peer.stream_reset_received(0, 0x10C)
                await settle()
            rig.peer.datagrams_received(4, [b"\0still here"])

            assert [log["event"] for log in logs if log["log_level"] == "error"] == [
                "on_done of a splice raised"
            ]
            assert rig.counters.application_errors == 1
            assert rig.front_end.request_count == 1
            assert neighbour.batches == [[b"\0still here"]]

    async def test_clients_fields_are_not_kept(self) -> None:
        app, session = ScriptedApp(), RecordingSession()
        async with serving(app) as rig:
            await self.left(rig, app, session)
            (connection,) = rig.front_end._connections

            assert connection.streams[0].head.fields == []
