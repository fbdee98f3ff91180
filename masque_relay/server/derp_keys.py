"""Owns DERP's keys: from files, and how TLS shows the public one to clients."""

import re
import secrets
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import cast

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fallbacks.derp.box import ServerBox
from fallbacks.derp.wire import PROTOCOL_VERSION
from masque_relay.config.derp import DerpSection
from masque_relay.contract.errors import ConfigError, Problem

KEY_BYTES = 32
MAX_KEY_FILE_BYTES = 4_096
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_DERPER_PREFIX = "privkey:"
_COMMON_NAME_PREFIX = "derpkey"
_VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_VALID_UNTIL = datetime(2049, 12, 31, tzinfo=UTC)
"""Nobody checks the dates: the certificate is a note, not a credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpKeys:
    """What one relay has."""

    private_key: bytes = field(repr=False)
    """X25519, 32 bytes."""
    mesh_key: str | None = field(repr=False)
    """64 lower-case hexadecimal digits; None: nobody belongs to the mesh."""


def load_derp_keys(section: DerpSection) -> DerpKeys | None:
    """Return the keys of the files; None where DERP is off.

    The private key stays the same for the life of this process, with a file and without one.

    Raises:
        ConfigError: there is no key in a file.
    """
    if not section.enabled:
        return None
    return DerpKeys(private_key=_private_key(section.key_file), mesh_key=_mesh_key(section))


def note_certificate(keys: DerpKeys) -> bytes:
    """Return the PEM certificate that says who we are, for the end of the TLS chain.

    A client that finds it there knows the key and need not wait for a 101 (fast start). It is
    signed by a key that nobody keeps, and proves nothing: the box that the client seals does.
    """
    key = Ed25519PrivateKey.generate()
    public_key = ServerBox(keys.private_key).public_key
    with warnings.catch_warnings():
        # Longer than X.520 allows, but so Tailscale's clients expect it.
        warnings.simplefilter("ignore", UserWarning)
        common_name = x509.NameAttribute(
            NameOID.COMMON_NAME, _COMMON_NAME_PREFIX + public_key.hex(), _validate=False
        )
    name = x509.Name([common_name])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(PROTOCOL_VERSION)
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, algorithm=None)
    )
    return certificate.public_bytes(Encoding.PEM)


@cache
def _private_key(path: Path | None) -> bytes:
    """Return the key; it is read once, because TLS must go on to show the one that is in use."""
    if path is None:
        return secrets.token_bytes(KEY_BYTES)
    text = _read(path, "derp.key_file")
    if text.startswith("{"):
        text = _derper_key(text)
    if not _HEX.fullmatch(text):
        hint = f"make one with: openssl rand -hex 32 > {path.name}"
        raise _problem(path, "derp.key_file", "not 64 hexadecimal digits, nor a derper's", hint)
    return bytes.fromhex(text)


def _mesh_key(section: DerpSection) -> str | None:
    path = section.mesh_key_file
    if path is None:
        return None
    text = _read(path, "derp.mesh_key_file")
    if not _HEX.fullmatch(text):
        hint = f"make one with: openssl rand -hex 32 > {path.name}"
        raise _problem(path, "derp.mesh_key_file", "not 64 hexadecimal digits", hint)
    return text.lower()


def _derper_key(text: str) -> str:
    try:
        document: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(document, dict):
        return ""
    key = cast("dict[object, object]", document).get("PrivateKey")
    return key.removeprefix(_DERPER_PREFIX) if isinstance(key, str) else ""


def _read(path: Path, key_path: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise _problem(path, key_path, f"can't be read: {error.strerror or error}") from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise _problem(path, key_path, "is too large to be a key")
    return data.decode(errors="replace").strip()


def _problem(path: Path, key_path: str, detail: str, hint: str | None = None) -> ConfigError:
    return ConfigError([Problem(file=str(path), key_path=key_path, detail=detail, hint=hint)])
