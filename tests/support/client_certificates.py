"""A small client CA, in memory, and certificates of it in files."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from masque_relay.client import MutualTls
from tests.support.gates import NOW_S

CLIENT_USE = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER_USE = (ExtendedKeyUsageOID.SERVER_AUTH,)


def moment(offset_s: float, now_s: float = NOW_S) -> datetime:
    return datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=offset_s)


@dataclass(frozen=True)
class Authority:
    """A CA that issues what a test asks for, good or bad."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    now_s: float = NOW_S

    @classmethod
    def make(
        cls, name: str = "Test CA", parent: "Authority | None" = None, *, now_s: float = NOW_S
    ) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = parent or cls(certificate=None, key=key)  # type: ignore[arg-type]  # itself
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if parent is None else parent.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(-86_400, now_s))
            .not_valid_after(moment(86_400 * 30, now_s))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
                critical=False,
            )
        )
        certificate = builder.sign(issuer.key, hashes.SHA256())
        return cls(certificate=certificate, key=key, now_s=now_s)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def issue(
        self,
        *names: x509.GeneralName,
        common_name: str | None = None,
        uses: tuple[x509.ObjectIdentifier, ...] = CLIENT_USE,
        begins_s: float = -3600,
        ends_s: float = 3600,
        is_authority: bool = False,
    ) -> bytes:
        """Return the DER of a leaf certificate."""
        leaf, _ = self._issue(
            *names,
            common_name=common_name,
            uses=uses,
            begins_s=begins_s,
            ends_s=ends_s,
            is_authority=is_authority,
        )
        return leaf.public_bytes(Encoding.DER)

    def write(
        self, stem: Path, *names: x509.GeneralName, begins_s: float = -3600, ends_s: float = 3600
    ) -> MutualTls:
        """Issue a leaf certificate; write it and its key, with this beginning of their names."""
        leaf, key = self._issue(*names, begins_s=begins_s, ends_s=ends_s)
        shown = MutualTls(
            certificate_file=stem.with_suffix(".pem"), key_file=stem.with_suffix(".key")
        )
        shown.certificate_file.write_bytes(leaf.public_bytes(Encoding.PEM))
        shown.key_file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return shown

    def _issue(
        self,
        *names: x509.GeneralName,
        common_name: str | None = None,
        uses: tuple[x509.ObjectIdentifier, ...] = CLIENT_USE,
        begins_s: float,
        ends_s: float,
        is_authority: bool = False,
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = (
            [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(begins_s, self.now_s))
            .not_valid_after(moment(ends_s, self.now_s))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            critical = common_name is None
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
        if uses:
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return builder.sign(self.key, hashes.SHA256()), key
