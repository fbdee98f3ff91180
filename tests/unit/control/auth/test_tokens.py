"""Issued tokens say what was asked, and can be read back."""

from pathlib import Path

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.control.auth.keys import (
    ASYMMETRIC,
    Algorithm,
    generate_signing_key,
    write_signing_key,
)
from masque_relay.control.auth.tokens import (
    issue_token,
    load_inspection_keys,
    read_token,
    signature_verifies,
)
from tests.support.gates import NOW_S


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_token_has_the_claims_that_were_asked_for(tmp_path: Path, algorithm: Algorithm) -> None:
    key = generate_signing_key(algorithm)
    token = issue_token(
        key,
        subject="alice",
        audience=["a", "b"],
        issuer="i",
        lifetime_s=60,
        now_s=NOW_S,
        groups=["g"],
        token_id="t-1",
    )
    contents = read_token(token)
    assert contents.header == {"alg": algorithm.value, "kid": key.kid, "typ": "JWT"}
    assert contents.claims == {
        "iss": "i", "aud": ["a", "b"], "sub": "alice", "iat": NOW_S, "nbf": NOW_S,
        "exp": NOW_S + 60, "jti": "t-1", "groups": ["g"],
    }  # fmt: skip
    _, public_path = write_signing_key(key, tmp_path)
    assert signature_verifies(token, load_inspection_keys(public_path))
    assert not signature_verifies(token[:-4] + "AAAA", load_inspection_keys(public_path))


def test_every_token_has_an_id_of_its_own() -> None:
    key = generate_signing_key()
    ids = {
        read_token(
            issue_token(key, subject="a", audience="r", issuer="i", lifetime_s=1, now_s=NOW_S)
        ).claims["jti"]
        for _ in range(2)
    }
    assert len(ids) == 2


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "...."])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_token(text)


def test_a_file_of_keys_that_is_neither_pem_nor_jwks_is_refused(tmp_path: Path) -> None:
    for name in ("keys.json", "keys.pem"):
        (tmp_path / name).write_text("nothing")
        with pytest.raises(ConfigError):
            load_inspection_keys(tmp_path / name)
