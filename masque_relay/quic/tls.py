"""Owns TLS for QUIC: which certificate a name gets, client certificates, the exporter (RFC 8446)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from aioquic.tls import load_pem_private_key, load_pem_x509_certificates
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

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
        chain = load_pem_x509_certificates(certificates)
        if not chain:
            msg = "no certificate in the PEM text"
            raise ValueError(msg)
        key = _signing_key(load_pem_private_key(private_key))
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
    """Chooses a certificate by SNI. Replace the content to reload: new handshakes use the new one."""

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
