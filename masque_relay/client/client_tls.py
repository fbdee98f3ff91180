"""Owns how the client checks a relay's certificate and proves itself, over QUIC and over TCP."""

import ssl
from pathlib import Path

import certifi

from masque_relay.client.credentials import Credential, MutualTls
from masque_relay.client.errors import CredentialError
from masque_relay.http.tcp_tls import CIPHERS
from masque_relay.quic.settings import ClientTls
from masque_relay.quic.tls import CertificateIdentity


def quic_tls(ca_file: Path | None, credential: Credential | None) -> ClientTls:
    """Return what a QUIC connection checks and shows.

    Raises:
        CredentialError: a file cannot be used.
    """
    return ClientTls(ca_pem=_read_ca(ca_file), identity=_read_identity(credential))


def tcp_tls(
    ca_file: Path | None, credential: Credential | None, alpn: tuple[str, ...]
) -> ssl.SSLContext:
    """Return what a TLS connection over TCP checks and shows; the same roots as over QUIC.

    Args:
        ca_file: PEM; trust these and nothing else. None: the bundled public roots.
        credential: a client certificate counts, others are ignored here.
        alpn: the protocols to offer, the most preferred first.

    Raises:
        CredentialError: a file cannot be used.
    """
    ca_pem = _read_ca(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names and chains by default
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(alpn))
    if ca_pem is None:
        context.load_verify_locations(cafile=certifi.where())
    else:
        try:
            context.load_verify_locations(cadata=ca_pem.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise CredentialError(f"the CA file {ca_file} cannot be used: {error}") from error
    if _read_identity(credential) is not None and isinstance(credential, MutualTls):
        try:
            context.load_cert_chain(credential.certificate_file, credential.key_file)
        except ssl.SSLError as error:
            raise CredentialError(
                f"client certificate {credential.certificate_file}: {error}"
            ) from error
    return context


def _read_ca(ca_file: Path | None) -> bytes | None:
    if ca_file is None:
        return None
    try:
        ca_pem = ca_file.read_bytes()
    except OSError as error:
        raise CredentialError(
            f"cannot read the CA file {ca_file}: {error.strerror}",
            hint="`ghostctl relay run --dev --state-dir DIR` writes DIR/ca.pem",
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise CredentialError(
            f"the CA file {ca_file} holds no PEM certificate",
            hint="name the file that begins with -----BEGIN CERTIFICATE-----, not a key or a token",
        )
    return ca_pem


def _read_identity(credential: Credential | None) -> CertificateIdentity | None:
    if not isinstance(credential, MutualTls):
        return None
    try:
        return CertificateIdentity.from_pem(
            credential.certificate_file.read_bytes(), credential.key_file.read_bytes()
        )
    except OSError as error:
        raise CredentialError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise CredentialError(
            f"client certificate {credential.certificate_file}: {error}",
            hint="both files must be PEM, the key without a passphrase and of this certificate",
        ) from error
