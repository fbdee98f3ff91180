"""Owns TLS for QUIC: which certificate a name gets, client certificates, the exporter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from masque_relay.quic.aioquic_private import Buffer

SigningKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


class ClientCertificates(Enum):
    """Whether the server asks its clients for a certificate."""

    IGNORED = "ignored"
    OPTIONAL = "optional"
    """Asked for; a client without one goes on without."""
    REQUIRED = "required"
    """A client without one gets the alert certificate_required."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateIdentity:
    """A certificate, what links it to its issuer, and the key that proves it."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    """Intermediates, the leaf's issuer first."""
    private_key: SigningKey = field(repr=False)
    names: frozenset[str]
    """DNS names of the leaf in lower case; a wildcard as ``*.example.org``."""

    @classmethod
    def from_pem(cls, certificates: bytes, private_key: bytes) -> "CertificateIdentity":
        """Read a PEM chain (leaf first) and its PEM key.

        Raises:
            ValueError: not PEM, no certificate, a key that QUIC cannot sign with, or a key that is
                not the certificate's.
        """
        chain = tls.load_pem_x509_certificates(certificates)
        if not chain:
            msg = "no certificate in the PEM text"
            raise ValueError(msg)
        key = _signing_key(tls.load_pem_private_key(private_key))
        if key.public_key() != chain[0].public_key():
            msg = "the private key does not belong to the certificate"
            raise ValueError(msg)
        return cls(
            certificate=chain[0],
            chain=tuple(chain[1:]),
            private_key=key,
            names=_dns_names(chain[0]),
        )


class CertificateStore:
    """Chooses a certificate by SNI; what :meth:`replace` puts in force, new handshakes use."""

    def __init__(
        self,
        default: CertificateIdentity,
        others: Sequence[CertificateIdentity] = (),
        *,
        refuse_unknown_names: bool = False,
    ) -> None:
        self.refuse_unknown_names = refuse_unknown_names
        self._default = default
        self._by_name: dict[str, CertificateIdentity] = {}
        self.replace(default, others)

    @property
    def default(self) -> CertificateIdentity:
        """What a client gets that names nobody."""
        return self._default

    def replace(
        self, default: CertificateIdentity, others: Sequence[CertificateIdentity] = ()
    ) -> None:
        """Put other certificates in force; connections that exist are not touched."""
        by_name: dict[str, CertificateIdentity] = {}
        for identity in (default, *others):
            for name in identity.names:
                by_name.setdefault(name, identity)
        self._default, self._by_name = default, by_name

    def select(self, server_name: str | None) -> CertificateIdentity | None:
        """Return the certificate for a name; None when it is unknown and unknown names are refused.

        A client that sends no name (it connects to an address) gets the default.
        """
        if server_name is None:
            return self._default
        name = server_name.lower().rstrip(".")
        found = self._by_name.get(name)
        if found is None:
            _, dot, parent = name.partition(".")
            found = self._by_name.get(f"*.{parent}") if dot else None
        if found is None and not self.refuse_unknown_names:
            return self._default
        return found


def _signing_key(key: PrivateKeyTypes) -> SigningKey:
    if isinstance(key, SigningKey):
        return key
    msg = f"QUIC cannot sign with a key of the type {type(key).__name__}"
    raise ValueError(msg)


def _dns_names(certificate: x509.Certificate) -> frozenset[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


class _UnrecognizedName(tls.Alert):
    description = tls.AlertDescription.unrecognized_name


class _CertificateRequired(tls.Alert):
    description = tls.AlertDescription.certificate_required


class _UnsuitableCertificate(tls.Alert):
    description = tls.AlertDescription.unsupported_certificate


class HardenedTlsContext(tls.Context):
    """aioquic's TLS engine, with a choice by SNI and client certificates that are verified.

    Never constructed: :func:`harden` gives this class to a context that aioquic made, because
    ``QuicConnection._initialize`` names the class that it builds.
    """

    client_hello_server_name: str | None
    """SNI as the client sent it; server side only."""
    _certificates: CertificateStore | None
    _client_certificates: ClientCertificates
    _client_ca_pem: bytes | None

    @property
    def peer_chain_der(self) -> tuple[bytes, ...]:
        """What the peer presented, leaf first. Its key is proven once the handshake is complete."""
        if self._peer_certificate is None:
            return ()
        chain = [self._peer_certificate, *self._peer_certificate_chain]
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)

    def install(
        self,
        certificates: CertificateStore | None,
        client_certificates: ClientCertificates,
        client_ca_pem: bytes | None,
    ) -> None:
        """Set what the class adds to aioquic's."""
        self.client_hello_server_name = None
        self._certificates = certificates
        self._client_certificates = client_certificates
        self._client_ca_pem = client_ca_pem
        # No early data, even if tickets were on: it can be replayed (RFC 8446 appendix E.5).
        self._max_early_data = None
        self._request_client_certificate = client_certificates is not ClientCertificates.IGNORED

    def _server_handle_hello(
        self, input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer
    ) -> None:
        start = input_buf.tell()
        hello = tls.pull_client_hello(input_buf)
        input_buf.seek(start)
        self.client_hello_server_name = hello.server_name
        if self._certificates is not None:
            identity = self._certificates.select(hello.server_name)
            if identity is None:
                # RFC 6066 section 3: a fatal unrecognized_name alert.
                raise _UnrecognizedName("the name is not served here")
            self.certificate = identity.certificate
            self.certificate_chain = list(identity.chain)
            self.certificate_private_key = identity.private_key
        super()._server_handle_hello(input_buf, initial_buf, handshake_buf)

    def _server_handle_certificate(self, input_buf: Buffer) -> None:
        super()._server_handle_certificate(input_buf)
        if self._peer_certificate is None:
            if self._client_certificates is ClientCertificates.REQUIRED:
                raise _CertificateRequired("a client certificate is required")
            return
        if self._client_ca_pem is not None:
            tls.verify_certificate(
                certificate=self._peer_certificate,
                chain=self._peer_certificate_chain,
                cadata=self._client_ca_pem,
            )
            _check_client_purpose(self._peer_certificate)


def harden(
    context: tls.Context,
    *,
    certificates: CertificateStore | None,
    client_certificates: ClientCertificates,
    client_ca_pem: bytes | None,
) -> HardenedTlsContext:
    """Turn a context that aioquic made into ours, before the handshake begins."""
    context.__class__ = HardenedTlsContext
    assert isinstance(context, HardenedTlsContext)  # noqa: S101 - narrows the type, line above
    context.install(certificates, client_certificates, client_ca_pem)
    return context


class Exporter:
    """TLS 1.3 keying material exporter (RFC 8446 section 7.5)."""

    def __init__(self, schedule: tls.KeySchedule) -> None:
        """Take the exporter master secret out of a key schedule that stands at server Finished."""
        self._algorithm: hashes.HashAlgorithm = schedule.algorithm
        self._secret = schedule.derive_secret(b"exp master")

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return ``length`` bytes, equal at both ends for one label and context."""
        derived = tls.hkdf_expand_label(
            algorithm=self._algorithm,
            secret=self._secret,
            label=label,
            hash_value=self._digest(b""),
            length=self._algorithm.digest_size,
        )
        return tls.hkdf_expand_label(
            algorithm=self._algorithm,
            secret=derived,
            label=b"exporter",
            hash_value=self._digest(context),
            length=length,
        )

    def _digest(self, data: bytes) -> bytes:
        digest = hashes.Hash(self._algorithm)
        digest.update(data)
        return digest.finalize()


def _check_client_purpose(certificate: x509.Certificate) -> None:
    # RFC 5280 section 4.2.1.12: if present, the extension limits what the key is for.
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    except ValueError as error:
        raise _UnsuitableCertificate("certificate extensions cannot be read") from error
    if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(
        usage
    ):
        raise _UnsuitableCertificate("the certificate is not for clients")
