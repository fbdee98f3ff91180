"""How a connection begins."""

import pytest

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.adapter import AdapterOwner
from masque_relay.quic.connecting import accept_connection, open_connection
from masque_relay.quic.connection_settings import ClientSettings, ServerSettings
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.tls import CertificateStore
from tests.support.quic_pair import (
    CLIENT,
    SERVER,
    RecordingApplication,
    certificate_authority,
    make_pair,
    server_identity,
)

APPLICATIONS = {"test": RecordingApplication}


def test_a_retried_address_is_validated_from_the_start() -> None:
    """RFC 9000 section 8.1.2."""
    for retry_source_cid, validated in ((None, []), (bytes(8), [True])):
        adapter = accept_connection(
            ServerSettings(
                applications=APPLICATIONS, certificates=CertificateStore(server_identity())
            ),
            owner=AdapterOwner(),
            counters=QuicCounters(),
            source=CLIENT,
            original_destination_cid=bytes(8),
            retry_source_cid=retry_source_cid,
        )
        paths = adapter._connection._network_paths
        assert [path.is_validated for path in paths] == validated


def test_connection_ids_have_the_length_of_the_generator() -> None:
    adapter = accept_connection(
        ServerSettings(
            applications=APPLICATIONS,
            certificates=CertificateStore(server_identity()),
            new_connection_id=lambda: bytes(18),
        ),
        owner=AdapterOwner(),
        counters=QuicCounters(),
        source=CLIENT,
        original_destination_cid=bytes(8),
        retry_source_cid=None,
    )
    assert adapter.connection_ids == (bytes(18),)


@pytest.mark.clause("RFC 9000", "14.1", "MUST", "pad a client's Initial to 1200 bytes at least")
def test_the_first_flight_is_one_full_packet() -> None:
    """RFC 9000 section 14.1."""
    adapter = open_connection(
        ClientSettings(
            applications=APPLICATIONS, server_name="relay.test", ca_pem=certificate_authority().pem
        ),
        owner=AdapterOwner(),
        counters=QuicCounters(),
        destination=SERVER,
        now=1.0,
    )
    ((packets, destination),) = adapter.packets_to_send(1.0)
    assert destination == SERVER
    assert [len(packet) for packet in packets] == [QuicLimits().initial_datagram_bytes]
    assert not adapter.alpn


def test_a_certificate_is_verified_unless_told_not_to() -> None:
    def settings(*, skip: bool) -> ClientSettings:
        return ClientSettings(
            applications=APPLICATIONS,
            server_name="relay.test",
            ca_pem=certificate_authority("another CA").pem,
            insecure_skip_verify=skip,
        )

    assert not make_pair(client_settings=settings(skip=False)).client.alpn
    assert make_pair(client_settings=settings(skip=True)).client.alpn


def test_aes_128_is_preferred() -> None:
    pair = make_pair()
    context = pair.server._connection.tls_context
    assert context is not None
    assert context.key_schedule is not None
    assert context.key_schedule.cipher_suite.name == "AES_128_GCM_SHA256"
