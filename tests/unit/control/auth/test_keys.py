"""Keys: made, kept, read back; each pinned to one algorithm."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from masque_relay.contract.errors import ConfigError
from masque_relay.control.auth.keys import (
    ASYMMETRIC,
    Algorithm,
    SigningKey,
    generate_signing_key,
    load_jwks,
    load_public_keys,
    load_shared_secret,
    load_signing_key,
    thumbprint,
    write_signing_key,
)


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def jwk(key: SigningKey, **members: object) -> dict[str, object]:
    converters: dict[Algorithm, Any] = {
        Algorithm.EDDSA: OKPAlgorithm,
        Algorithm.ES256: ECAlgorithm,
        Algorithm.RS256: RSAAlgorithm,
    }
    public = key.private.public_key()
    entry: dict[str, object] = converters[key.algorithm].to_jwk(public, as_dict=True)
    return {**entry, **members}


def write_jwks(tmp_path: Path, *entries: object) -> Path:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": entries}))
    return file


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_written_key_is_read_back_with_its_algorithm_and_kid(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    key = generate_signing_key(algorithm)
    private_path, public_path = write_signing_key(key, tmp_path / "new")
    assert load_signing_key(private_path).kid == key.kid
    (public,) = load_public_keys(public_path)
    assert (public.algorithm, public.kid) == (algorithm, key.kid)


def test_the_private_key_is_for_its_owner_only_and_nothing_is_overwritten(tmp_path: Path) -> None:
    private_path, public_path = write_signing_key(generate_signing_key(), tmp_path)
    assert stat.S_IMODE(private_path.stat().st_mode) == 0o600
    before = private_path.read_bytes(), public_path.read_bytes()
    with pytest.raises(FileExistsError):
        write_signing_key(generate_signing_key(), tmp_path)
    public_path.unlink()
    with pytest.raises(FileExistsError):
        write_signing_key(generate_signing_key(), tmp_path)
    assert private_path.read_bytes() == before[0]


def test_a_key_does_not_show_itself() -> None:
    assert "PrivateKey" not in repr(generate_signing_key())


def test_the_thumbprint_is_that_of_rfc_8037_appendix_a3() -> None:
    entry = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    key: Any = OKPAlgorithm.from_jwk(json.dumps(entry))
    assert thumbprint(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS512"])
def test_only_asymmetric_keys_are_generated(algorithm: str) -> None:
    with pytest.raises(ValueError, match=algorithm):
        generate_signing_key(algorithm)


def test_a_private_key_where_a_public_one_belongs_is_refused(tmp_path: Path) -> None:
    private_path, _ = write_signing_key(generate_signing_key(), tmp_path)
    with pytest.raises(ConfigError, match="the relay needs only the public one"):
        load_public_keys(private_path)


WEAK_RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505 (weak: that is the test)


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (public_pem(ec.generate_private_key(ec.SECP384R1())), "only P-256 is used"),
        (public_pem(WEAK_RSA), "RSA key of 1024 bits"),
        (public_pem(ed448.Ed448PrivateKey.generate()), "not a key type that we use"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a PEM public key"),
        (b"", "not a PEM public key"),
    ],
)
def test_weak_foreign_and_broken_keys_are_refused(tmp_path: Path, pem: bytes, says: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem)
    with pytest.raises(ConfigError, match=says):
        load_public_keys(file)


def test_a_jwk_set_gives_its_signature_keys(tmp_path: Path) -> None:
    keys = [generate_signing_key(algorithm) for algorithm in ASYMMETRIC]
    file = write_jwks(
        tmp_path,
        jwk(keys[0], kid="one", alg="EdDSA", use="sig"),
        jwk(keys[1], kid="two"),
        jwk(keys[2]),
        {"kty": "RSA", "use": "enc", "n": "ignored"},
    )
    loaded = load_jwks(file)
    assert [(key.kid, key.algorithm) for key in loaded] == [
        ("one", Algorithm.EDDSA),
        ("two", Algorithm.ES256),
        (keys[2].kid, Algorithm.RS256),
    ]


ED = generate_signing_key()
RSA = generate_signing_key("RS256")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kty": "oct", "k": "AAAA"}, "a shared secret has no place in a JWK set"),
        (jwk(RSA, alg="HS256"), "alg 'HS256' does not fit the key, which is for RS256"),
        (jwk(RSA, alg="PS256"), "does not fit the key"),
        (jwk(ED, d="AAAA"), "holds a private key"),
        (jwk(ED, kid=3), "kid is not a string"),
        ({"kty": "OKP", "crv": "X25519", "x": "AAAA"}, "not a"),
        ("text", "not a JSON object"),
    ],
)
def test_a_bad_entry_of_a_jwk_set_is_named(tmp_path: Path, entry: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_jwks(write_jwks(tmp_path, entry))
    assert caught.value.problems[0].key_path == "keys[0]"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": []}', '{"keys": [{"use": "enc"}]}'])
def test_what_is_no_jwk_set_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_jwks(file)


def test_a_shared_secret_has_at_least_32_bytes(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 31 + b"\n")
    with pytest.raises(ConfigError, match="31 bytes"):
        load_shared_secret(file)
    file.write_bytes(b"x" * 32 + b"\n")
    (key,) = load_shared_secret(file)
    assert key.algorithm is Algorithm.HS256
    assert "xxx" not in repr(key)


def test_a_file_that_is_missing_or_huge_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_signing_key(tmp_path / "none")
    file = tmp_path / "huge"
    file.write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_signing_key(file)
