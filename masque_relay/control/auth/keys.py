"""Owns keys: making signing keys, reading PEM, JWKS and shared-secret files (RFC 7517, 7518, 7638).

Every key is pinned to one algorithm when it is read, so that no token can choose another.
"""

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import cast

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from jwt import PyJWK, PyJWTError

from masque_relay.contract.errors import ConfigError, Problem

MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2: no shorter than the hash
MAX_KEY_FILE_BYTES = 1024 * 1024  # a JWK set of some hundred keys; more is not a key file


class Algorithm(StrEnum):
    """The signature algorithms that we issue and accept (RFC 7518 section 3.1, RFC 8037)."""

    EDDSA = "EdDSA"
    ES256 = "ES256"
    RS256 = "RS256"
    HS256 = "HS256"


ASYMMETRIC = (Algorithm.EDDSA, Algorithm.ES256, Algorithm.RS256)

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key with which tokens are issued."""

    algorithm: Algorithm
    kid: str
    """The RFC 7638 thumbprint of the public key."""
    private: PrivateKey = field(repr=False)

    def private_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS #8 PEM: a secret."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def public_pem(self) -> bytes:
        """Return the public key as SubjectPublicKeyInfo PEM."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A key that checks signatures of exactly one algorithm."""

    algorithm: Algorithm
    kid: str | None
    """None only for a shared secret: it serves tokens with any kid or none."""
    key: PublicKey | bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """A digest that tells keys apart, whatever their kid. Of a secret it must not be shown."""
        if isinstance(self.key, bytes):
            return "hs256:" + hashlib.sha256(b"key id:" + self.key).hexdigest()
        return thumbprint(self.key)


def generate_signing_key(algorithm: Algorithm | str = Algorithm.EDDSA) -> SigningKey:
    """Return a fresh key pair.

    Raises:
        ValueError: the algorithm is not one of EdDSA, ES256 and RS256.
    """
    match Algorithm(algorithm):
        case Algorithm.EDDSA:
            return _signing_key(Ed25519PrivateKey.generate())
        case Algorithm.ES256:
            return _signing_key(generate_ec_key(SECP256R1()))
        case Algorithm.RS256:
            return _signing_key(generate_rsa_key(public_exponent=65537, key_size=3072))
        case Algorithm.HS256:
            raise ValueError("HS256 has no key pair")


def write_signing_key(key: SigningKey, directory: Path, name: str = "signing") -> tuple[Path, Path]:
    """Write ``NAME.key.pem`` (mode 0600) and ``NAME.pub.pem``; return both paths.

    Raises:
        FileExistsError: one of them is there already; nothing is ever overwritten.
        OSError: the directory can't be written.
    """
    private_path = directory / f"{name}.key.pem"
    public_path = directory / f"{name}.pub.pem"
    directory.mkdir(parents=True, exist_ok=True)
    if public_path.exists():
        raise FileExistsError(str(public_path))
    _write_new(private_path, key.private_pem(), 0o600)
    _write_new(public_path, key.public_pem(), 0o644)
    return private_path, public_path


def load_signing_key(path: Path) -> SigningKey:
    """Return the private key of a PEM file.

    Raises:
        ConfigError: the file can't be read or is no private key that we use.
    """
    data = _read(path)
    try:
        loaded = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _problem(
            path,
            "not an unencrypted PEM private key",
            "make one with: ghostctl key generate --out DIR",
        ) from error
    if not isinstance(loaded, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey):
        raise _problem(path, f"{type(loaded).__name__} is not a key type that we use")
    _algorithm_of(path, loaded.public_key())
    return _signing_key(loaded)


def load_public_keys(path: Path) -> tuple[VerificationKey, ...]:
    """Return the public key of a PEM file, as a tuple of one.

    Raises:
        ConfigError: the file can't be read, or holds anything but a public key that we use.
    """
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise _problem(
            path,
            "holds a private key; the relay needs only the public one",
            "name the .pub.pem file and keep the private key away from the relay",
        )
    try:
        loaded = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _problem(path, "not a PEM public key") from error
    if not isinstance(loaded, Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey):
        raise _problem(path, f"{type(loaded).__name__} is not a key type that we use")
    algorithm = _algorithm_of(path, loaded)
    return (VerificationKey(algorithm=algorithm, kid=thumbprint(loaded), key=loaded),)


def load_jwks(path: Path) -> tuple[VerificationKey, ...]:
    """Return the signature keys of a JWK set (RFC 7517 section 5); keys for encryption are skipped.

    Raises:
        ConfigError: the file can't be read, or one of its keys is not one that we use.
    """
    try:
        document: object = orjson.loads(_read(path))
    except orjson.JSONDecodeError as error:
        raise _problem(path, f"not JSON: {error}") from error
    entries = (
        cast("dict[str, object]", document).get("keys") if isinstance(document, dict) else None
    )
    if not isinstance(entries, list) or not entries:
        raise _problem(path, 'not a JWK set: no "keys" list')
    keys: list[VerificationKey] = []
    problems: list[Problem] = []
    for index, entry in enumerate(cast("list[object]", entries)):
        try:
            key = _jwk(path, index, entry)
        except ConfigError as error:
            problems.extend(error.problems)
        else:
            if key is not None:
                keys.append(key)
    if not keys and not problems:
        problems.append(Problem(file=str(path), detail="no signature key in the JWK set"))
    if problems:
        raise ConfigError(problems)
    return tuple(keys)


def load_shared_secret(path: Path) -> tuple[VerificationKey, ...]:
    """Return the HS256 key of a file: its bytes, without white space at the ends.

    Raises:
        ConfigError: the file can't be read or the secret is shorter than 32 bytes.
    """
    secret = _read(path).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise _problem(path, f"the secret has {len(secret)} bytes, fewer than {MIN_SECRET_BYTES}")
    return (VerificationKey(algorithm=Algorithm.HS256, kid=None, key=secret),)


def thumbprint(key: PublicKey) -> str:
    """Return the base64url SHA-256 thumbprint of a public key (RFC 7638 section 3)."""
    members: dict[str, str]
    if isinstance(key, Ed25519PublicKey):
        members = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}
    elif isinstance(key, EllipticCurvePublicKey):
        numbers = key.public_numbers()
        members = {
            "crv": "P-256",
            "kty": "EC",
            "x": _base64url(numbers.x.to_bytes(32, "big")),
            "y": _base64url(numbers.y.to_bytes(32, "big")),
        }
    else:
        rsa = key.public_numbers()
        members = {"e": _base64url(_minimal(rsa.e)), "kty": "RSA", "n": _base64url(_minimal(rsa.n))}
    # RFC 7638 section 3.3: members in lexicographic order, no white space
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _signing_key(private: PrivateKey) -> SigningKey:
    public = private.public_key()
    if isinstance(public, Ed25519PublicKey):
        algorithm = Algorithm.EDDSA
    elif isinstance(public, EllipticCurvePublicKey):
        algorithm = Algorithm.ES256
    else:
        algorithm = Algorithm.RS256
    return SigningKey(algorithm=algorithm, kid=thumbprint(public), private=private)


def _algorithm_of(path: Path, key: PublicKey, key_path: str = "") -> Algorithm:
    if isinstance(key, Ed25519PublicKey):
        return Algorithm.EDDSA
    if isinstance(key, EllipticCurvePublicKey):
        if not isinstance(key.curve, SECP256R1):
            raise _problem(path, f"curve {key.curve.name}: only P-256 is used", key_path=key_path)
        return Algorithm.ES256
    if key.key_size < MIN_RSA_BITS:
        detail = f"RSA key of {key.key_size} bits, fewer than {MIN_RSA_BITS}"
        raise _problem(path, detail, key_path=key_path)
    return Algorithm.RS256


def _jwk(path: Path, index: int, entry: object) -> VerificationKey | None:
    where = f"keys[{index}]"
    if not isinstance(entry, dict):
        raise _problem(path, "not a JSON object", key_path=where)
    members = cast("dict[str, object]", entry)
    if members.get("use", "sig") != "sig":
        return None
    if members.get("kty") == "oct":
        detail = "a shared secret has no place in a JWK set"
        raise _problem(path, detail, "use the HS256 secret file", key_path=where)
    if "d" in members:
        detail = "holds a private key; the relay needs only the public one"
        raise _problem(path, detail, key_path=where)
    try:
        # Without alg: the key itself says what it is for, and alg is compared with that below.
        key: object = PyJWK({name: members[name] for name in members if name != "alg"}).key
    except (PyJWTError, ValueError, TypeError, KeyError) as error:
        raise _problem(path, "not a key that we can use", key_path=where) from error
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey):
        raise _problem(path, "not a key type that we use", key_path=where)
    algorithm = _algorithm_of(path, key, where)
    if members.get("alg", algorithm.value) != algorithm.value:
        detail = f"alg {members['alg']!r} does not fit the key, which is for {algorithm}"
        raise _problem(path, detail, key_path=where)
    kid = members.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _problem(path, "kid is not a string", key_path=where)
    return VerificationKey(algorithm=algorithm, kid=kid or thumbprint(key), key=key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise _problem(path, f"can't be read: {error.strerror or error}") from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise _problem(path, f"larger than {MAX_KEY_FILE_BYTES} bytes")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def _problem(
    path: Path, detail: str, hint: str | None = None, *, key_path: str = ""
) -> ConfigError:
    return ConfigError([Problem(file=str(path), detail=detail, hint=hint, key_path=key_path)])


def _minimal(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
