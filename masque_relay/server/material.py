"""Owns what is read from files beside the configuration: certificates, shared keys, admin token.

Everything is read before anything is put in force, so that a bad file changes nothing.
"""

import ssl
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from masque_relay.config import HttpsListen, RelayConfig
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.http.tcp_tls import (
    ALPN_H1,
    ALPN_H2,
    CertificateFiles,
    build_server_context,
)
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.quic.tls import CertificateIdentity, ClientCertificates
from masque_relay.server.derp_keys import DerpKeys, load_derp_keys, note_certificate
from masque_relay.server.derp_mesh import mesh_tls

Value = TypeVar("Value")

ALPN_TURN = "stun.turn"
"""RFC 7443."""

MIN_SECRET_BYTES = 32
MIN_ADMIN_TOKEN_CHARACTERS = 16
"""About 96 bits when random; shorter ones are words."""
MAX_FILE_BYTES = 1_048_576
"""No key and no chain is that large: a larger file is the wrong file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Keys and certificates, read and checked."""

    certificate: CertificateIdentity
    more_certificates: tuple[CertificateIdentity, ...]
    client_certificates: ClientCertificates
    client_ca_pem: bytes | None
    tcp_tls: ssl.SSLContext | None
    """The same certificates for TCP; None where HTTP/2 and HTTP/1.1 are off."""
    turn_tls: ssl.SSLContext | None
    """The same for TURN's own ports; None where there are none with TLS."""
    derp_keys: DerpKeys | None
    """None where DERP is off."""
    secrets: EndpointSecrets = field(repr=False)
    admin_token: str = field(repr=False)


def load_material(config: RelayConfig) -> Material:
    """Read every file that the configuration names for listeners.

    Raises:
        ConfigError: with every problem found.
    """
    problems: list[Problem] = []
    pairs = [(config.tls.certificate_file, config.tls.key_file, "tls")]
    pairs += [
        (section.certificate_file, section.key_file, f"tls.more[{index}]")
        for index, section in enumerate(config.tls.more)
    ]
    identities: list[CertificateIdentity] = []
    for certificate_file, key_file, key_path in pairs:
        try:
            identities.append(_identity(certificate_file, key_file, key_path))
        except ConfigError as error:
            problems += error.problems
    secrets = _collect(problems, lambda: _endpoint_secrets(config.listen.secret_files))
    admin_token = _collect(problems, lambda: _admin_token(config.admin.token_file))
    client_ca_pem = _collect(problems, lambda: _client_ca(config))
    derp_keys = _collect(problems, lambda: load_derp_keys(config.derp))
    if config.derp.mesh_with:
        _collect(problems, lambda: mesh_tls(config.derp))
    tcp_tls: ssl.SSLContext | None = None
    turn_tls: ssl.SSLContext | None = None
    if len(identities) == len(pairs):
        files = [
            CertificateFiles(certificate_file=pair[0], key_file=pair[1], names=identity.names)
            for pair, identity in zip(pairs, identities, strict=True)
        ]
        shown = _with_note(files, config, derp_keys)
        tcp_tls = _collect(problems, lambda: _tcp_tls(config, shown, client_ca_pem))
        turn_tls = _collect(problems, lambda: _turn_tls(config, files))
    if problems or secrets is None or admin_token is None:
        raise ConfigError(problems)
    return Material(
        certificate=identities[0],
        more_certificates=tuple(identities[1:]),
        client_certificates=_client_certificates(config),
        client_ca_pem=client_ca_pem,
        tcp_tls=tcp_tls,
        turn_tls=turn_tls,
        derp_keys=derp_keys,
        secrets=secrets,
        admin_token=admin_token,
    )


def _collect(problems: list[Problem], read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except ConfigError as error:
        problems += error.problems
        return None


def _identity(certificate_file: Path, key_file: Path, key_path: str) -> CertificateIdentity:
    certificates = _read(certificate_file, f"{key_path}.certificate_file")
    private_key = _read(key_file, f"{key_path}.key_file")
    try:
        return CertificateIdentity.from_pem(certificates, private_key)
    except (ValueError, TypeError) as error:
        raise _problem(
            certificate_file, f"{key_path}.certificate_file", f"with {key_file.name}: {error}"
        ) from error


def _tcp_tls(
    config: RelayConfig, files: Sequence[CertificateFiles], client_ca_pem: bytes | None
) -> ssl.SSLContext | None:
    """Read the same files for OpenSSL."""
    if config.listen.https is HttpsListen.OFF:
        return None
    wanted = _client_certificates(config)
    alpn_protocols = [ALPN_H2, ALPN_H1]
    if config.turn.on_https_port:
        alpn_protocols.append(ALPN_TURN)
    with _openssl_problems(config):
        return build_server_context(
            files,
            client_ca_pem=client_ca_pem,
            asks_for_certificate=wanted is not ClientCertificates.IGNORED,
            requires_certificate=wanted is ClientCertificates.REQUIRED,
            refuse_unknown_names=config.tls.refuse_unknown_names,
            alpn_protocols=alpn_protocols,
        )


def _with_note(
    files: Sequence[CertificateFiles], config: RelayConfig, derp_keys: DerpKeys | None
) -> Sequence[CertificateFiles]:
    """Return the certificates with the note that DERP clients look for, where they may see it."""
    if derp_keys is None or not config.derp.fast_start:
        return files
    note_pem = note_certificate(derp_keys)
    return [replace(file, note_pem=note_pem) for file in files]


def _turn_tls(config: RelayConfig, files: Sequence[CertificateFiles]) -> ssl.SSLContext | None:
    """Read them for TURN's ports; STUN clients have no certificates."""
    if not config.turn.tls:
        return None
    with _openssl_problems(config):
        return build_server_context(
            files,
            refuse_unknown_names=config.tls.refuse_unknown_names,
            alpn_protocols=[ALPN_TURN],
        )


@contextmanager
def _openssl_problems(config: RelayConfig) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise _problem(
            config.tls.certificate_file, "tls.certificate_file", f"OpenSSL: {error}"
        ) from error


def _endpoint_secrets(files: Iterable[Path]) -> EndpointSecrets:
    """Derive the endpoint's keys, each for its own purpose, from the shared secrets."""
    secrets = [_secret(path, f"listen.secret_files[{index}]") for index, path in enumerate(files)]
    if not secrets:
        return EndpointSecrets.generate()
    return EndpointSecrets(
        retry_keys=tuple(_derive(secret, b"ghostwire retry 1") for secret in secrets),
        reset_key=_derive(secrets[0], b"ghostwire stateless reset 1"),
    )


def _secret(path: Path, key_path: str) -> bytes:
    secret = _read(path, key_path)
    if len(secret) < MIN_SECRET_BYTES:
        raise _problem(
            path,
            key_path,
            f"has {len(secret)} bytes, {MIN_SECRET_BYTES} are needed",
            hint=f"make one with: head -c 32 /dev/urandom > {path.name}",
        )
    return secret


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(secret)


def _admin_token(path: Path) -> str:
    token = _read(path, "admin.token_file").decode(errors="replace").strip()
    if len(token) < MIN_ADMIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable():
        raise _problem(
            path,
            "admin.token_file",
            f"must hold at least {MIN_ADMIN_TOKEN_CHARACTERS} printable ASCII characters",
            hint=f"make one with: openssl rand -base64 32 > {path.name}",
        )
    return token


def _client_ca(config: RelayConfig) -> bytes | None:
    """Return the CAs whose names the handshake offers; the gate verifies the chain itself."""
    mtls = config.gate.mtls
    if mtls is None:
        return None
    return b"\n".join(
        _read(path, f"gate.mtls.ca_files[{index}]") for index, path in enumerate(mtls.ca_files)
    )


def _client_certificates(config: RelayConfig) -> ClientCertificates:
    if config.gate.mtls is None:
        return ClientCertificates.IGNORED
    if config.tls.require_client_certificate:
        return ClientCertificates.REQUIRED
    return ClientCertificates.OPTIONAL


def _read(path: Path, key_path: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _problem(path, key_path, f"can't be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise _problem(path, key_path, f"is larger than {MAX_FILE_BYTES} bytes")
    return data


def _problem(path: Path, key_path: str, detail: str, *, hint: str | None = None) -> ConfigError:
    return ConfigError([Problem(file=str(path), key_path=key_path, detail=detail, hint=hint)])
