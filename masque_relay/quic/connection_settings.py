"""Owns what connections are made with: ServerSettings and ClientSettings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from aioquic.quic.logger import QuicLogger

from masque_relay.quic.application import ApplicationFactory
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.settings import EndpointSettings
from masque_relay.quic.tls import CertificateIdentity, CertificateStore, ClientCertificates


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What all connections of a listening endpoint share."""

    applications: Mapping[str, ApplicationFactory]
    """By ALPN protocol, most preferred first."""
    certificates: CertificateStore
    limits: QuicLimits = field(default_factory=QuicLimits)
    client_certificates: ClientCertificates = ClientCertificates.IGNORED
    client_ca_pem: bytes | None = None
    """Verify presented client certificates against these; None leaves that to the control plane."""
    new_connection_id: Callable[[], bytes] | None = None
    """Makes every connection ID that we issue, all of one length; None: 8 random bytes."""
    reset_token_for: Callable[[bytes], bytes] | None = None
    """The stateless reset token for a connection ID of ours; None: random ones."""
    quic_logger: QuicLogger | None = None
    secrets_log: TextIO | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What a connection that we open is made of."""

    applications: Mapping[str, ApplicationFactory]
    server_name: str
    """A DNS name (sent as SNI) or an address; the certificate must be for it."""
    ca_pem: bytes | None = None
    """Trust these and nothing else; None: certifi's."""
    insecure_skip_verify: bool = False
    """For tests and diagnosis: accept any certificate."""
    identity: CertificateIdentity | None = None
    """Our client certificate, should the server ask."""
    limits: QuicLimits = field(default_factory=QuicLimits)
    quic_logger: QuicLogger | None = None
    secrets_log: TextIO | None = None


def server_settings(
    settings: EndpointSettings,
    *,
    reset_token_for: Callable[[bytes], bytes],
    quic_logger: QuicLogger | None,
    secrets_log: TextIO | None,
) -> ServerSettings | None:
    """Return what the connections of an endpoint share; None for one that only opens them."""
    if settings.certificates is None:
        return None
    return ServerSettings(
        applications=settings.applications,
        certificates=settings.certificates,
        limits=settings.limits,
        client_certificates=settings.client_certificates,
        client_ca_pem=settings.client_ca_pem,
        new_connection_id=settings.new_connection_id,
        reset_token_for=reset_token_for,
        quic_logger=quic_logger,
        secrets_log=secrets_log,
    )
