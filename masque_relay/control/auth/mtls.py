"""Owns client certificates: the chain checked against our client CAs (RFC 5280), and the subject.

The TLS handshake has proved the private key; here it is decided whether the certificate counts.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.request import ClientCertificate
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.memory import ExpiringMemory
from masque_relay.control.auth.principal import CredentialKind, Principal, is_presentable
from masque_relay.control.settings import MtlsSettings, SubjectField

MAX_DETAIL_CHARACTERS = 200  # the library may quote what the peer sent
REMEMBER_S = 60.0  # bounds how long a chain is trusted without a new look at the clock


class MtlsAuthenticator:
    """Checks client certificates against the CAs that were loaded with it."""

    def __init__(self, settings: MtlsSettings, authorities: Iterable[x509.Certificate]) -> None:
        self._settings = settings
        trusted = list(authorities)
        self._store = Store(trusted)
        self._key_ids = {_fingerprint(certificate) for certificate in trusted}
        self._verified: ExpiringMemory[Principal] = ExpiringMemory(settings.cache_entries)

    async def authenticate(
        self, credential: ClientCertificate, *, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        """Return the certificate's subject, or why it does not count."""
        del source
        return self.verify(credential.chain_der, now_s=now_s)

    def still_trusts(self, principal: Principal) -> bool:
        """Return whether the CA at the end of the principal's chain is still one of ours."""
        return principal.key_id in self._key_ids

    def verify(self, chain_der: tuple[bytes, ...], *, now_s: float) -> Principal | Denial:
        """Return the subject of the leaf, which comes first in the chain."""
        settings = self._settings
        if not 0 < len(chain_der) <= settings.max_chain_certificates:
            return _invalid("the chain is empty or too long")
        if any(len(der) > settings.max_certificate_bytes for der in chain_der):
            return _invalid("a certificate is too large")
        digest = hashlib.sha256(
            b"".join(hashlib.sha256(der).digest() for der in chain_der)
        ).digest()
        known = self._verified.get(digest, now_s)
        if known is not None:
            return known
        result = self._verify(chain_der, now_s)
        if isinstance(result, Principal):
            expires_s = min(now_s + REMEMBER_S, result.expires_s or now_s)
            self._verified.put(digest, result, expires_s=expires_s)
        return result

    def _verify(self, chain_der: tuple[bytes, ...], now_s: float) -> Principal | Denial:
        try:
            leaf, *intermediates = (x509.load_der_x509_certificate(der) for der in chain_der)
            not_after_s = leaf.not_valid_after_utc.timestamp()
            # The library has one error for everything, and who holds an old certificate should
            # know; the signature does not matter for a refusal.
            if not_after_s <= now_s:
                return Denial(reason=DenyReason.CREDENTIAL_EXPIRED, detail="certificate expired")
            verifier = (
                PolicyBuilder()
                .store(self._store)
                .time(datetime.fromtimestamp(now_s, UTC))
                .max_chain_depth(self._settings.max_chain_certificates)
                .extension_policies(
                    ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_leaf_extensions()
                )
                .build_client_verifier()
            )
            verified = verifier.verify(leaf, intermediates)
            subject = self._subject(leaf)
        except VerificationError as error:
            return _invalid(f"the chain does not verify: {error}"[:MAX_DETAIL_CHARACTERS])
        except Exception as error:  # noqa: BLE001 (hostile DER; these errors share no base class)
            return _invalid(f"not a usable certificate: {type(error).__name__}")
        if subject is None:
            return _invalid("no field of the certificate names exactly one subject")
        expires_s = min(
            certificate.not_valid_after_utc.timestamp() for certificate in verified.chain
        )
        return Principal(
            subject=subject,
            token_id=_token_id(leaf),
            expires_s=expires_s,
            method=CredentialKind.MTLS,
            key_id=_fingerprint(verified.chain[-1]),
        )

    def _subject(self, leaf: x509.Certificate) -> str | None:
        """Return what the first present field says; None if that is not exactly one thing."""
        for field in self._settings.subject_fields:
            values = _field_values(leaf, field)
            if values:
                single = len(values) == 1 and is_presentable(values[0])
                return values[0] if single else None
        return None


def load_mtls(settings: MtlsSettings) -> MtlsAuthenticator:
    """Return an authenticator with the CAs of all files.

    Raises:
        ConfigError: a file is unusable or holds no CA; all problems at once.
    """
    problems: list[Problem] = []
    authorities: list[x509.Certificate] = []
    if not settings.ca_files:
        problems.append(Problem(detail="client certificates need at least one CA file"))
    if not settings.subject_fields:
        problems.append(Problem(detail="client certificates need at least one subject field"))
    for path in settings.ca_files:
        try:
            authorities += _load_authorities(path)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return MtlsAuthenticator(settings, authorities)


def _load_authorities(path: Path) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        detail = f"can't be read: {error.strerror or error}"
        raise ConfigError([Problem(file=str(path), detail=detail)]) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError([Problem(file=str(path), detail="no PEM certificate")]) from error
    for index, certificate in enumerate(found):
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            is_authority = constraints.value.ca
        except (x509.ExtensionNotFound, ValueError):
            is_authority = False
        if not is_authority:
            detail = f"certificate {index + 1} is not a CA"
            raise ConfigError([Problem(file=str(path), detail=detail)])
    return found


def _require_client_use(
    policy: Policy, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage
) -> None:
    del policy, certificate
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise ValueError("the certificate is not for client authentication")


def _leaf_extensions() -> ExtensionPolicy:
    """Return our demands on a leaf: client use must be stated; a SAN is welcome, not required.

    RFC 5280 section 4.2.1.12 lets a certificate without the extension serve any purpose; we don't.
    """
    return (
        ExtensionPolicy.permit_all()
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _refuse_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _require_signature_use)
        .require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _require_client_use)
    )


def _refuse_authority(
    policy: Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    del policy, certificate
    if constraints is not None and constraints.ca:
        raise ValueError("a CA certificate is no client certificate")


def _require_signature_use(
    policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    del policy, certificate
    if usage is not None and not usage.digital_signature:
        raise ValueError("the key is not for signatures")


def _field_values(leaf: x509.Certificate, field: SubjectField) -> list[str]:
    if field is SubjectField.COMMON_NAME:
        names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [name.value for name in names if isinstance(name.value, str)]
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    match field:
        case SubjectField.SAN_URI:
            return extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        case SubjectField.SAN_EMAIL:
            return extension.value.get_values_for_type(x509.RFC822Name)
        case SubjectField.SAN_DNS:
            return extension.value.get_values_for_type(x509.DNSName)


def _token_id(leaf: x509.Certificate) -> str:
    """Return what a certificate is revoked by: a digest of the part that the CA signed.

    Not of the whole: (r, s) and (r, n - s) are both good ECDSA signatures, so whoever holds a
    certificate can make another one with the same content, and would be rid of the revocation.
    """
    return f"cert:{hashlib.sha256(leaf.tbs_certificate_bytes).hexdigest()}"


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _invalid(detail: str) -> Denial:
    return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail=detail)
