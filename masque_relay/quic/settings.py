"""Owns an endpoint's settings, the TLS choices of a client, and the failure to connect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from masque_relay.quic.application import ApplicationFactory
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.quic.slots import Neighbours
from masque_relay.quic.tls import CertificateIdentity, CertificateStore, ClientCertificates


class ConnectFailed(Exception):  # noqa: N818 - says what happened
    """A connection could not be opened.

    Attributes:
        error_code: the QUIC error code that ended the handshake (RFC 9000 section 20), 0x100 plus
            the TLS alert for TLS; None when nothing answered in time.
        reason: one line for the log.
    """

    def __init__(self, error_code: int | None, reason: str) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """What an endpoint is made of; see :meth:`QuicEndpoint.apply` for what a reload may change."""

    applications: Mapping[str, ApplicationFactory] = field(
        default_factory=dict[str, ApplicationFactory]
    )
    """By ALPN protocol, most preferred first; for connections that we accept."""
    certificates: CertificateStore | None = None
    """None: the endpoint only opens connections."""
    client_certificates: ClientCertificates = ClientCertificates.IGNORED
    client_ca_pem: bytes | None = None
    limits: QuicLimits = field(default_factory=QuicLimits)
    secrets: EndpointSecrets = field(default_factory=EndpointSecrets.generate, repr=False)
    new_connection_id: Callable[[], bytes] | None = None
    """Makes every connection ID that we issue, of CONNECTION_ID_BYTES; None: random ones."""
    neighbours: Neighbours | None = None
    """Other workers behind the same port. Cannot change."""
    qlog_directory: Path | None = None
    """Write one qlog file per connection there."""
    key_log_file: Path | None = None
    """Append TLS secrets there (SSLKEYLOGFILE format): whoever reads it reads the traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """How a connection that we open checks the server and proves itself."""

    ca_pem: bytes | None = None
    """Trust these and nothing else; None: the bundled public roots."""
    identity: CertificateIdentity | None = None
    """Our client certificate, should the server ask."""
    insecure_skip_verify: bool = False
    """For tests and diagnosis only."""
