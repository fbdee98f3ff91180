"""Owns the certificates of end-to-end encryption: self-signed, for a peer's own key."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.quic.tls import CertificateIdentity

_LIFETIME = timedelta(days=3_650)
"""Nobody looks at it: what is trusted is the key, and TLS proves that the peer holds it."""


def certificate_for(identity: PeerIdentity) -> CertificateIdentity:
    """Return a self-signed certificate whose key is the peer id."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(identity.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(identity.key, None)
    )
    return CertificateIdentity(
        certificate=certificate,
        chain=(),
        private_key=identity.key,
        names=frozenset({SERVER_NAME}),
    )


SERVER_NAME = "peer.ghostwire.invalid"
"""The same for everybody: a name in the clear would be one that the relay can read."""


def peer_id_of(chain_der: tuple[bytes, ...]) -> bytes | None:
    """Return the key of a peer's certificate; None where it is none of a peer."""
    if not chain_der:
        return None
    try:
        key = x509.load_der_x509_certificate(chain_der[0]).public_key()
    except ValueError:
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None
