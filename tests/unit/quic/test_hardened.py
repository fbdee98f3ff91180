"""HardenedQuicConnection: datagrams, keys, connection IDs, resets, path MTU."""

import itertools

import pytest
from aioquic.quic.packet import QuicErrorCode

from masque_relay.quic import hardened
from masque_relay.quic.adapter import AdapterOwner
from masque_relay.quic.connecting import accept_connection
from masque_relay.quic.connection_settings import ClientSettings, ServerSettings
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.reset import ResetTokens
from masque_relay.quic.tls import CertificateStore
from tests.support.quic_pair import (
    CLIENT,
    SERVER,
    Pair,
    RecordingApplication,
    certificate_authority,
    make_pair,
    server_identity,
)

APPLICATIONS = {"test": RecordingApplication}
LIMITS = QuicLimits()


def app_of(pair: Pair) -> RecordingApplication:
    app = pair.server_app
    assert isinstance(app, RecordingApplication)
    return app


def server_settings(
    limits: QuicLimits = LIMITS, reset_tokens: ResetTokens | None = None
) -> ServerSettings:
    counter = itertools.count(1)
    return ServerSettings(
        applications=APPLICATIONS,
        certificates=CertificateStore(server_identity()),
        limits=limits,
        new_connection_id=lambda: b"\x07" + next(counter).to_bytes(7, "big"),
        reset_token_for=reset_tokens.token_for if reset_tokens is not None else None,
    )


def client_settings(limits: QuicLimits = LIMITS) -> ClientSettings:
    return ClientSettings(
        applications=APPLICATIONS,
        server_name="relay.test",
        ca_pem=certificate_authority().pem,
        limits=limits,
    )


def pair_with(server: QuicLimits = LIMITS, client: QuicLimits = LIMITS) -> Pair:
    return make_pair(
        server_settings=server_settings(server), client_settings=client_settings(client)
    )


class TestKeys:
    """RFC 9001 section 6."""

    @pytest.mark.clause("RFC 9001", "6.6", "MUST", "update keys before their limit")
    def test_keys_are_updated_before_the_limit_and_nothing_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pair = make_pair()
        monkeypatch.setattr(hardened, "KEY_UPDATE_PACKETS", 20)
        secrets: set[bytes] = set()
        sent = 0
        for _ in range(60):
            sent += pair.server.send_datagrams(b"", [bytes(1_000)] * 2)
            pair.settle(max_turns=6)
            secret = pair.server._connection._cryptos[hardened.tls.Epoch.ONE_RTT].send.secret
            assert secret is not None
            secrets.add(secret)
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert len(client.datagrams) == sent
        assert len(secrets) >= 4

    def test_a_second_update_waits_for_an_acknowledgement_of_the_first(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pair = make_pair()
        monkeypatch.setattr(hardened, "KEY_UPDATE_PACKETS", 5)
        pair.settle()
        pair.to_client = lambda _: []
        secrets: set[bytes] = set()
        for _ in range(40):
            pair.server.send_datagrams(b"", [bytes(100)] * 20)
            pair.turn()
            secret = pair.server._connection._cryptos[hardened.tls.Epoch.ONE_RTT].send.secret
            assert secret is not None
            secrets.add(secret)
        assert len(secrets) <= 2

    def test_the_peers_ack_delay_exponent_is_used(self) -> None:
        pair = make_pair(handshake=False)
        pair.server._connection._local_ack_delay_exponent = 8
        pair.settle()
        assert pair.client._connection._remote_ack_delay_exponent == 8


class TestConnectionIds:
    """RFC 9000 section 5.1."""

    def test_all_come_from_the_generator_and_are_announced(self) -> None:
        pair = pair_with()
        ids = pair.server.connection_ids
        assert len(ids) == hardened.MAX_HOST_CONNECTION_IDS
        assert all(cid[0] == 7 and len(cid) == 8 for cid in ids)
        assert set(pair.server_owner.issued) == set(ids[1:])

    @pytest.mark.clause(
        "RFC 9000", "10.3", "MUST", "give each connection ID a reset token that is hard to guess"
    )
    def test_their_reset_tokens_are_what_the_key_makes_of_them(self) -> None:
        tokens = ResetTokens(bytes(32))
        pair = make_pair(
            server_settings=server_settings(reset_tokens=tokens),
            client_settings=client_settings(),
        )
        known = [
            pair.client._connection._peer_cid,
            *pair.client._connection._peer_cid_available,
        ]
        assert len(known) == hardened.MAX_HOST_CONNECTION_IDS
        for connection_id in known:
            assert connection_id.stateless_reset_token == tokens.token_for(connection_id.cid)

    @pytest.mark.clause(
        "RFC 9000", "5.1.1", "SHOULD", "replace connection IDs that the peer retired"
    )
    def test_a_change_of_connection_id_retires_the_old_one_and_brings_another(self) -> None:
        pair = pair_with()
        first = pair.client._connection._peer_cid.cid
        pair.client._connection.change_connection_id()
        pair.client.send_ping()
        pair.settle()
        assert pair.server_owner.retired == [first]
        assert first not in pair.server.connection_ids
        assert len(pair.server.connection_ids) == hardened.MAX_HOST_CONNECTION_IDS


class TestStatelessReset:
    """RFC 9000 section 10.3.1."""

    @pytest.mark.clause(
        "RFC 9000",
        "10.3.1",
        "MUST",
        "end the connection at once when a reset arrives, and send nothing",
    )
    def test_a_reset_ends_the_connection_at_once(self) -> None:
        tokens = ResetTokens(bytes(32))
        pair = make_pair(
            server_settings=server_settings(reset_tokens=tokens),
            client_settings=client_settings(),
        )
        cid = pair.client._connection._peer_cid.cid
        reset = tokens.reset_for(bytes(100), cid)
        assert reset is not None
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        pair.client.receive_packets([reset], SERVER, pair.now)
        assert pair.client.is_terminated
        assert client.lost == (QuicErrorCode.NO_ERROR, "stateless reset")
        assert pair.client.packets_to_send(pair.now) == []

    @pytest.mark.clause(
        "RFC 9000", "10.3.1", "MUST NOT", "take anything but the peer's token for a reset"
    )
    def test_random_bytes_are_no_reset(self) -> None:
        pair = pair_with()
        pair.client.receive_packets([b"\x41" + bytes(50), b"", b"\x40"], SERVER, pair.now)
        assert not pair.client.is_terminated


class TestPathMtu:
    def test_both_ends_climb_to_the_ceiling(self) -> None:
        pair = make_pair()
        assert pair.client.path_mtu_bytes == pair.server.path_mtu_bytes == 1_472
        assert pair.server_counters.path_mtu_probes_sent == 4
        assert pair.server_counters.path_mtu_raised == 4

    def test_a_path_of_1400_is_found_out_without_a_congestion_reaction(self) -> None:
        pair = make_pair(handshake=False)
        narrow = path_of(1_400)
        pair.to_server = pair.to_client = narrow
        pair.settle()
        window = pair.server._connection._loss.congestion_window
        pair.wait(5.0)
        assert pair.server.path_mtu_bytes == 1_400
        assert pair.server._connection._loss.congestion_window >= window
        assert pair.server._connection._loss.bytes_in_flight == 0

    def test_a_path_that_takes_less_than_the_initial_size_still_connects(self) -> None:
        pair = make_pair(handshake=False)
        pair.to_server = pair.to_client = path_of(1_200)
        pair.wait(8.0, steps=400)
        assert pair.client.alpn
        assert pair.server.alpn
        assert pair.client.path_mtu_bytes == 1_200

    @pytest.mark.clause("RFC 9000", "14.3", "SHOULD", "notice a path that lost its size")
    def test_a_black_hole_is_noticed_and_traffic_goes_on(self) -> None:
        pair = make_pair()
        assert pair.server.path_mtu_bytes == 1_472
        pair.to_client = path_of(1_300)
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        pair.client.send_stream_data(0, b"?", end_stream=True)
        pair.settle()
        pair.server.send_stream_data(0, bytes(40_000), end_stream=True)
        for _ in range(40):
            pair.wait(0.5, steps=50)
            if len(client.streams.get(0, b"")) == 40_000:
                break
        assert len(client.streams[0]) == 40_000
        assert pair.server.path_mtu_bytes <= 1_300

    def test_loss_by_congestion_is_no_black_hole(self) -> None:
        pair = make_pair()
        count = 0

        def lossy(packet: bytes) -> list[bytes]:
            nonlocal count
            count += 1
            return [] if count % 3 == 0 else [packet]

        pair.to_client = lossy
        for _ in range(50):
            pair.server.send_datagrams(b"", [bytes(1_400)] * 10)
            pair.wait(0.1, steps=10)
        assert pair.server.path_mtu_bytes == 1_472

    @pytest.mark.clause(
        "RFC 9000", "14", "MUST NOT", "send datagrams larger than the peer's max_udp_payload_size"
    )
    def test_the_peers_limit_is_kept(self) -> None:
        pair = make_pair(handshake=False)
        original = pair.server._connection._serialize_transport_parameters

        def with_limit() -> bytes:
            return original() + b"\x03\x02\x45\x14"  # max_udp_payload_size = 1300

        pair.server._connection._serialize_transport_parameters = with_limit  # type: ignore[method-assign]
        pair.settle()
        pair.wait(3.0)
        assert pair.server.path_mtu_bytes == 1_472
        assert pair.client.path_mtu_bytes == 1_300

    def test_ipv6_leaves_room_for_its_header(self) -> None:
        pair = make_pair(client_address=("2001:db8::1", 4000))
        pair.settle()
        assert pair.server.path_mtu_bytes == 1_452

    def test_another_address_of_the_peer_starts_the_search_again(self) -> None:
        pair = make_pair()
        sizes: list[int] = []
        pair.client_address = ("192.0.2.77", 999)
        pair.to_client = lambda packet: sizes.append(len(packet)) or [packet]
        pair.client.send_ping()
        pair.turn()
        assert pair.server_owner.moved == 1
        assert pair.server_counters.migrations == 1
        assert pair.server.path_mtu_bytes == 1_280
        pair.settle()
        assert pair.server.path_mtu_bytes == 1_472

    def test_another_port_is_the_same_path(self) -> None:
        pair = make_pair()
        pair.client_address = (CLIENT[0], 999)
        pair.client.send_ping()
        pair.turn()
        assert pair.server_owner.moved == 1
        assert pair.server.path_mtu_bytes == 1_472


def path_of(size_bytes: int):  # noqa: ANN201 - a filter
    """A path that drops what is larger, silently."""
    return lambda packet: [packet] if len(packet) <= size_bytes else []


class TestAddressValidation:
    """RFC 9000 section 8.1."""

    def test_a_retried_address_is_validated_from_the_start(self) -> None:
        pair = make_pair(handshake=False)
        assert pair.server._connection._network_paths == []
        adapter = accept_connection(
            server_settings(),
            owner=AdapterOwner(),
            counters=pair.server_counters,
            source=CLIENT,
            original_destination_cid=bytes(8),
            retry_source_cid=bytes(8),
        )
        assert adapter._connection._network_paths[0].is_validated
