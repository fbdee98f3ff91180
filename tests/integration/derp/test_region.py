"""Two of our relays as the DERP servers of one region: each dials the other."""

import signal
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fallbacks.derp.wire import FrameType
from masque_relay.config.dev_state import prepare_dev_state
from tests.support.derp_region import (
    WAIT_S,
    DerpRegion,
    mesh_status,
    new_mesh_key,
    until_status,
)
from tests.support.derp_relay import MESH_KEY
from tests.support.derp_socket import DerpSocket
from tests.support.managed_relay import ManagedRelay
from tests.support.processes import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A region of two that know each other."""

    region: DerpRegion
    a: ManagedRelay
    b: ManagedRelay

    def sees(self, count: int) -> None:
        """Wait until each of the two has heard of so many clients at the other."""
        until_status(self.a, self.region.urls["b"], state="connected", clients=count)
        until_status(self.b, self.region.urls["a"], state="connected", clients=count)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    region = DerpRegion(tmp_path_factory.mktemp("region"), "a", "b")
    with region.relay("a") as a, region.relay("b") as b:
        yield Pair(region=region, a=a, b=b)


def metric(relay: ManagedRelay, name: str) -> float:
    return relay.metrics().get(name, 0.0)


def exchange(one: DerpSocket, other: DerpSocket) -> None:
    """Let two clients send each other packets and see them arrive."""
    for sender, receiver in ((one, other), (other, one)):
        sender.send(FrameType.SEND_PACKET, receiver.public + b"hello")
        assert receiver.expect(FrameType.RECV_PACKET) == sender.public + b"hello"


def test_clients_of_two_servers_exchange_packets_both_ways(pair: Pair) -> None:
    before = metric(pair.a, "ghostwire_relay_derp_mesh_packets_total")
    with pair.region.client("alice", "a") as alice, pair.region.client("bob", "b") as bob:
        pair.sees(1)
        exchange(alice, bob)
        large = bytes(65_536)
        alice.send(FrameType.SEND_PACKET, bob.public + large)
        assert bob.expect(FrameType.RECV_PACKET) == alice.public + large
    assert metric(pair.a, "ghostwire_relay_derp_mesh_packets_total") == before + 2


def test_the_one_that_all_have_in_their_list_is_recognized_as_oneself(pair: Pair) -> None:
    until_status(pair.a, pair.region.urls["a"], state="this relay")
    assert len(mesh_status(pair.a)) == 2
    assert len(pair.a.records("mesh_with names this relay itself")) == 1


def test_whoever_sent_hears_that_a_client_elsewhere_has_gone(pair: Pair) -> None:
    with pair.region.client("alice", "a") as alice:
        with pair.region.client("bob", "b") as bob:
            pair.sees(1)
            exchange(alice, bob)
        assert alice.expect(FrameType.PEER_GONE) == bob.public + b"\x00"
        alice.send(FrameType.SEND_PACKET, bob.public + b"hello")
        assert alice.expect(FrameType.PEER_GONE) == bob.public + b"\x01"


def test_a_client_that_changes_its_server_is_reached_at_the_new_one(pair: Pair) -> None:
    with pair.region.client("alice", "a") as alice, pair.region.client("bob", "b") as there:
        pair.sees(1)
        exchange(alice, there)
        with pair.region.client("bob", "a") as here:
            exchange(alice, here)
        alice.send(FrameType.SEND_PACKET, there.public + b"and again")
        frames = [alice.frame()[0]]
        assert frames == [FrameType.PEER_GONE]  # of the channel to where bob was last
        alice.send(FrameType.SEND_PACKET, there.public + b"and again")
        assert there.expect(FrameType.RECV_PACKET) == alice.public + b"and again"


def test_the_policy_of_the_senders_server_holds_for_clients_elsewhere(pair: Pair) -> None:
    with pair.region.client("carol", "a") as carol, pair.region.client("bob", "b") as bob:
        pair.sees(1)
        before = metric(pair.b, "ghostwire_relay_derp_packets_forwarded_total")
        carol.send(FrameType.SEND_PACKET, bob.public + b"hello")
        assert carol.expect(FrameType.PEER_GONE) == bob.public + b"\x01"
        assert metric(pair.b, "ghostwire_relay_derp_packets_forwarded_total") == before


def test_the_policy_of_the_receivers_server_holds_too(pair: Pair) -> None:
    with pair.region.client("alice", "a") as alice, pair.region.client("dave", "b") as dave:
        pair.sees(1)
        alice.send(FrameType.SEND_PACKET, dave.public + b"hello")
        assert alice.expect(FrameType.PEER_GONE)[:32] == dave.public
        dave.send(FrameType.PING, b"12345678")
        assert dave.expect(FrameType.PONG) == b"12345678"  # and no packet before it
    assert metric(pair.a, "ghostwire_relay_derp_mesh_absent_total") >= 1


def test_keys_and_identities_stay_out_of_log_and_status(pair: Pair) -> None:
    with pair.region.client("alice", "a") as alice, pair.region.client("bob", "b") as bob:
        pair.sees(1)
        exchange(alice, bob)
        seen = pair.a.log() + str(mesh_status(pair.a))
    for secret in (MESH_KEY, bytes(pair.region.keys["server-a"]).hex(), bob.public.hex()):
        assert secret not in seen


def test_traffic_recovers_when_the_other_server_was_restarted(tmp_path: Path) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    with region.relay("a") as a, region.client("alice", "a") as alice:
        for _ in range(2):
            with region.relay("b") as b, region.client("bob", "b") as bob:
                Pair(region=region, a=a, b=b).sees(1)
                exchange(alice, bob)
            assert alice.expect(FrameType.PEER_GONE) == bob.public + b"\x00"
            until_status(a, region.urls["b"], state="away")
        servers_dialled = metric(a, "ghostwire_relay_derp_mesh_dials_total")
        servers_failed = metric(a, "ghostwire_relay_derp_mesh_failures_total")
    assert len(a.records("DERP server of the mesh connected")) == 2
    assert servers_failed >= 2
    assert servers_dialled > servers_failed  # by the one to itself


def test_a_server_that_goes_away_waits_for_its_clients_and_not_for_the_other_server(
    tmp_path: Path,
) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    with region.relay("a") as a, region.relay("b", drain_s=10 * WAIT_S) as b:
        with region.client("alice", "a") as alice, region.client("bob", "b") as bob:
            Pair(region=region, a=a, b=b).sees(1)
            b.process.send_signal(signal.SIGTERM)
            bob.expect(FrameType.RESTARTING)
            exchange(alice, bob)
        assert b.process.wait(WAIT_S) == 0
        away = until_status(a, region.urls["b"], state="away")
        assert away["error"]
        assert "the other server goes away" in a.log()


def test_a_wrong_mesh_key_is_refused_and_both_sides_show_it(tmp_path: Path) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    with region.relay("b") as b, region.relay("a", mesh_key=new_mesh_key()) as a:
        entry = until_status(
            a,
            region.urls["b"],
            state="away",
            error="the other server says: this relay does not admit this node key",
        )
        assert "clients" not in entry
        assert a.records("DERP server of the mesh away")
        assert metric(b, "ghostwire_relay_derp_handshakes_refused_total") >= 1
        assert metric(a, "ghostwire_relay_derp_mesh_servers") == 0


def test_a_certificate_of_an_unknown_ca_is_not_trusted(tmp_path: Path) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    stranger = prepare_dev_state(tmp_path / "stranger").ca_file
    with region.relay("b"), region.relay("a", ca_file=stranger) as a:

        def refused() -> str:
            entry = next(e for e in mesh_status(a) if e["server"] == region.urls["b"])
            return str(entry["error"])

        error = wait_until(refused, deadline_s=WAIT_S, what="a refusal")
    assert "TLS with" in error


def test_a_server_that_is_no_derp_server_is_named_with_its_answer(tmp_path: Path) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    elsewhere = region.urls["b"].replace("/derp", "/elsewhere")
    with region.relay("b", mesh_with=()), region.relay("a", mesh_with=(elsewhere,)) as a:
        until_status(
            a, elsewhere, state="away", error="the other server answered 404: is DERP there?"
        )
