"""Owns how a connection begins: what aioquic and the adapter are given, for either role."""

import ssl
from typing import TypedDict

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import CipherSuite

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.adapter import AdapterOwner, QuicAdapter
from masque_relay.quic.congestion import RENO
from masque_relay.quic.connection_settings import ClientSettings, ServerSettings
from masque_relay.quic.fastpath import connection_class
from masque_relay.quic.hardened import ConnectionPolicy
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.outgoing import Address
from masque_relay.quic.packet import CONNECTION_ID_BYTES


def accept_connection(
    settings: ServerSettings,
    *,
    owner: AdapterOwner,
    counters: QuicCounters,
    source: Address,
    original_destination_cid: bytes,
    retry_source_cid: bytes | None,
) -> QuicAdapter:
    """Make the server side for a client's first Initial; feed it that packet next.

    Args:
        settings: what all connections share.
        owner: the endpoint.
        counters: where datagrams and probes are counted.
        source: the client's address.
        original_destination_cid: the Destination Connection ID of the client's very first Initial,
            out of the Retry token where there was one.
        retry_source_cid: the Source Connection ID of our Retry, when it was answered; the source
            address then counts as validated.
    """
    identity = settings.certificates.default
    limits = settings.limits
    new_cid = settings.new_connection_id
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=list(settings.applications),
        connection_id_length=len(new_cid()) if new_cid is not None else CONNECTION_ID_BYTES,
        quic_logger=settings.quic_logger,
        secrets_log_file=settings.secrets_log,
        certificate=identity.certificate,
        certificate_chain=list(identity.chain),
        private_key=identity.private_key,
        **_common_options(limits),
    )
    connection = connection_class(limits, configuration)(
        configuration=configuration,
        policy=ConnectionPolicy(
            limits=limits,
            certificates=settings.certificates,
            client_certificates=settings.client_certificates,
            client_ca_pem=settings.client_ca_pem,
            new_connection_id=new_cid,
            reset_token_for=settings.reset_token_for,
        ),
        counters=counters,
        peer_address=source,
        original_destination_connection_id=original_destination_cid,
        retry_source_connection_id=retry_source_cid,
    )
    return QuicAdapter(
        connection,
        applications=settings.applications,
        owner=owner,
        counters=counters,
        peer_address=source,
        server_name=None,
    )


def open_connection(
    settings: ClientSettings,
    *,
    owner: AdapterOwner,
    counters: QuicCounters,
    destination: Address,
    now: float,
) -> QuicAdapter:
    """Begin a handshake; flush it with packets_to_send."""
    identity = settings.identity
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=list(settings.applications),
        server_name=settings.server_name,
        cadata=settings.ca_pem,
        verify_mode=ssl.CERT_NONE if settings.insecure_skip_verify else ssl.CERT_REQUIRED,
        quic_logger=settings.quic_logger,
        secrets_log_file=settings.secrets_log,
        **_common_options(settings.limits),
    )
    if identity is not None:
        configuration.certificate = identity.certificate
        configuration.certificate_chain = list(identity.chain)
        configuration.private_key = identity.private_key
    connection = connection_class(settings.limits, configuration)(
        configuration=configuration,
        policy=ConnectionPolicy(limits=settings.limits),
        counters=counters,
        peer_address=destination,
    )
    connection.connect(destination, now)
    return QuicAdapter(
        connection,
        applications=settings.applications,
        owner=owner,
        counters=counters,
        peer_address=destination,
        server_name=settings.server_name,
    )


class _CommonOptions(TypedDict):
    cipher_suites: list[CipherSuite]
    congestion_control_algorithm: str
    idle_timeout: float
    max_data: int
    max_datagram_frame_size: int
    max_datagram_size: int
    max_stream_data: int


def _common_options(limits: QuicLimits) -> _CommonOptions:
    return {
        # AES-128 first: as safe here, and a tenth less CPU per packet than AES-256.
        "cipher_suites": [
            CipherSuite.AES_128_GCM_SHA256,
            CipherSuite.AES_256_GCM_SHA384,
            CipherSuite.CHACHA20_POLY1305_SHA256,
        ],
        "congestion_control_algorithm": RENO,
        "idle_timeout": limits.idle_timeout_s,
        "max_data": limits.connection_window_bytes,
        "max_datagram_frame_size": limits.max_datagram_frame_bytes,
        "max_datagram_size": min(limits.initial_datagram_bytes, limits.max_datagram_bytes),
        "max_stream_data": limits.stream_window_bytes,
    }
