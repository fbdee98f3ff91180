"""Bearer tokens: RFC 8725, threat by threat."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.errors import ConfigError
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.bearer import BearerAuthenticator, IssuerKey, load_bearer
from masque_relay.control.auth.keys import (
    ASYMMETRIC,
    Algorithm,
    SigningKey,
    VerificationKey,
    generate_signing_key,
    write_signing_key,
)
from masque_relay.control.auth.principal import CredentialKind, Principal
from masque_relay.control.settings import BearerSettings, IssuerSettings
from tests.support.gates import AUDIENCE, ISSUER, NOW_S

KEY = generate_signing_key()
RSA_KEY = generate_signing_key("RS256")
FOREIGN_KEY = generate_signing_key()
SECRET = b"0123456789abcdef0123456789abcdef"


def claims(**changes: object) -> dict[str, object]:
    made: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": NOW_S,
        "nbf": NOW_S,
        "exp": NOW_S + 60,
        "jti": "t-1",
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def sign(key: SigningKey = KEY, headers: dict[str, Any] | None = None, **changes: object) -> str:
    return jwt.encode(
        claims(**changes),
        key.private,
        algorithm=key.algorithm.value,
        headers={"kid": key.kid} if headers is None else headers,
    )


def encode_part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: object, payload: object, secret: bytes) -> str:
    signed = f"{encode_part(header)}.{encode_part(payload)}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encode_part(mac)}"


@pytest.fixture
def settings(tmp_path: Path) -> BearerSettings:
    files = tuple(
        write_signing_key(key, tmp_path, name)[1] for key, name in ((KEY, "ed"), (RSA_KEY, "rsa"))
    )
    return BearerSettings(
        audiences=(AUDIENCE, "second"), issuers=(IssuerSettings(issuer=ISSUER, key_files=files),)
    )


@pytest.fixture
def bearer(settings: BearerSettings) -> BearerAuthenticator:
    return load_bearer(settings)


def refused(bearer: BearerAuthenticator, token: str, now_s: float = NOW_S) -> DenyReason:
    result = bearer.verify(token, now_s=now_s)
    assert isinstance(result, Denial), result
    assert token not in result.detail or not token
    return result.reason


def accepted(bearer: BearerAuthenticator, token: str, now_s: float = NOW_S) -> Principal:
    result = bearer.verify(token, now_s=now_s)
    assert isinstance(result, Principal), result
    return result


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_good_token_of_each_algorithm_names_its_principal(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    key = generate_signing_key(algorithm)
    _, file = write_signing_key(key, tmp_path)
    bearer = load_bearer(
        BearerSettings(
            audiences=(AUDIENCE,), issuers=(IssuerSettings(issuer=ISSUER, key_files=(file,)),)
        )
    )
    principal = accepted(bearer, sign(key, groups=["b", "a", "b"]))
    assert (principal.subject, principal.groups) == ("alice", ("a", "b"))
    assert (principal.token_id, principal.expires_s) == ("t-1", NOW_S + 60)
    assert principal.method is CredentialKind.BEARER


@pytest.mark.parametrize("aud", [AUDIENCE, "second", ["other", AUDIENCE]])
def test_any_of_our_audiences_will_do(bearer: BearerAuthenticator, aud: object) -> None:
    accepted(bearer, sign(aud=aud))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "other"}, DenyReason.CREDENTIAL_AUDIENCE),
        ({"aud": []}, DenyReason.CREDENTIAL_AUDIENCE),
        ({"aud": [3, None]}, DenyReason.CREDENTIAL_AUDIENCE),
        ({"aud": None}, DenyReason.CREDENTIAL_INVALID),
        ({"iss": "https://evil.example"}, DenyReason.CREDENTIAL_INVALID),
        ({"iss": None}, DenyReason.CREDENTIAL_INVALID),
        ({"exp": NOW_S}, DenyReason.CREDENTIAL_EXPIRED),
        ({"exp": NOW_S - 1e6}, DenyReason.CREDENTIAL_EXPIRED),
        ({"exp": None}, DenyReason.CREDENTIAL_INVALID),
        ({"exp": "tomorrow"}, DenyReason.CREDENTIAL_INVALID),
        ({"exp": True}, DenyReason.CREDENTIAL_INVALID),
        ({"exp": 1e300}, DenyReason.CREDENTIAL_INVALID),
        ({"exp": float("nan")}, DenyReason.CREDENTIAL_INVALID),
        ({"exp": float("inf")}, DenyReason.CREDENTIAL_INVALID),
        ({"nbf": NOW_S + 31}, DenyReason.CREDENTIAL_INVALID),
        ({"iat": NOW_S + 31}, DenyReason.CREDENTIAL_INVALID),
        ({"iat": []}, DenyReason.CREDENTIAL_INVALID),
        ({"sub": None}, DenyReason.CREDENTIAL_INVALID),
        ({"sub": ""}, DenyReason.CREDENTIAL_INVALID),
        ({"sub": "a\nb"}, DenyReason.CREDENTIAL_INVALID),
        ({"sub": "a" * 257}, DenyReason.CREDENTIAL_INVALID),
        ({"jti": "\x00"}, DenyReason.CREDENTIAL_INVALID),
        ({"groups": "staff"}, DenyReason.CREDENTIAL_INVALID),
        ({"groups": [1]}, DenyReason.CREDENTIAL_INVALID),
        ({"groups": [f"g{number}" for number in range(129)]}, DenyReason.CREDENTIAL_INVALID),
    ],
)
def test_a_signed_token_with_a_wrong_claim_is_refused(
    bearer: BearerAuthenticator, changes: dict[str, object], reason: DenyReason
) -> None:
    token = forge_signed(changes)
    assert refused(bearer, token) is reason


def forge_signed(changes: dict[str, object]) -> str:
    """Sign any claims; PyJWT itself would refuse to encode some of them."""
    payload = json.dumps(claims(**changes)).encode()
    return jwt.PyJWS().encode(payload, KEY.private, algorithm="EdDSA", headers={"kid": KEY.kid})


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_clock_that_is_a_little_ahead_is_forgiven(bearer: BearerAuthenticator, name: str) -> None:
    accepted(bearer, sign(**{name: NOW_S + 29}))


def test_there_is_no_leeway_for_expiry(bearer: BearerAuthenticator) -> None:
    token = sign()
    accepted(bearer, token, NOW_S + 59.9)
    assert refused(bearer, token, NOW_S + 60) is DenyReason.CREDENTIAL_EXPIRED


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("x", id="no-dots"),
        pytest.param("..", id="dots"),
        pytest.param("a" * 9000, id="too-long"),
        pytest.param("é.é.é", id="not-ascii"),
        pytest.param(sign(FOREIGN_KEY), id="foreign-key"),
        pytest.param(sign(FOREIGN_KEY, {"kid": KEY.kid}), id="foreign-key-with-our-kid"),
        pytest.param(sign(KEY, {"kid": "unknown"}), id="unknown-kid"),
        pytest.param(sign(KEY, {"kid": KEY.kid, "crit": ["x"], "x": 1}), id="critical-header"),
        pytest.param(sign()[:-6] + "AAAAAA", id="changed-signature"),
        pytest.param(sign().rsplit(".", 1)[0] + ".", id="signature-removed"),
        pytest.param(jwt.encode(claims(), None, algorithm="none"), id="none"),
        pytest.param(
            f"{encode_part({'alg': 'nOnE', 'kid': KEY.kid})}.{encode_part(claims())}.", id="nOnE"
        ),
        pytest.param(f"{encode_part({'kid': KEY.kid})}.{encode_part(claims())}.", id="no-alg"),
        pytest.param(
            f"{encode_part({'alg': 3, 'kid': KEY.kid})}.{encode_part(claims())}.AA", id="alg-number"
        ),
        pytest.param(f"{encode_part([])}.{encode_part(claims())}.AA", id="header-list"),
        pytest.param(f"{encode_part(b'[' * 3000)}.e30.AA", id="deep-header"),
        pytest.param(
            forge({"alg": "HS256", "kid": RSA_KEY.kid}, claims(), RSA_KEY.public_pem()),
            id="rs256-public-key-as-hs256-secret",
        ),
        pytest.param(
            forge({"alg": "HS256", "kid": KEY.kid}, claims(), KEY.public_pem()),
            id="eddsa-public-key-as-hs256-secret",
        ),
        pytest.param(forge({"alg": "HS256"}, claims(), b""), id="empty-secret"),
        pytest.param(sign(RSA_KEY, {"kid": KEY.kid}), id="kid-of-another-algorithm"),
        pytest.param(
            forge({"alg": "EdDSA", "kid": KEY.kid, "jwk": {"kty": "oct", "k": ""}}, claims(), b""),
            id="key-in-the-token",
        ),
    ],
)
def test_a_forged_or_malformed_token_is_refused(bearer: BearerAuthenticator, token: str) -> None:
    assert refused(bearer, token) is DenyReason.CREDENTIAL_INVALID


def test_rs512_with_an_rs256_key_is_refused(bearer: BearerAuthenticator) -> None:
    token = jwt.encode(claims(), RSA_KEY.private, algorithm="RS512", headers={"kid": RSA_KEY.kid})
    assert refused(bearer, token) is DenyReason.CREDENTIAL_INVALID


def test_hs256_counts_only_with_a_configured_secret(
    settings: BearerSettings, tmp_path: Path
) -> None:
    token = jwt.encode(claims(), SECRET, algorithm="HS256", headers={"kid": "whatever"})
    assert refused(load_bearer(settings), token) is DenyReason.CREDENTIAL_INVALID
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    issuer = replace(settings.issuers[0], hs256_secret_file=file)
    bearer = load_bearer(replace(settings, issuers=(issuer,)))
    accepted(bearer, token)
    accepted(bearer, sign())


def test_a_key_speaks_only_for_its_issuer(tmp_path: Path) -> None:
    issuers = tuple(
        IssuerSettings(issuer=name, key_files=(write_signing_key(key, tmp_path, name)[1],))
        for name, key in (("one", KEY), ("two", FOREIGN_KEY))
    )
    bearer = load_bearer(BearerSettings(audiences=(AUDIENCE,), issuers=issuers))
    accepted(bearer, sign(KEY, iss="one"))
    accepted(bearer, sign(FOREIGN_KEY, iss="two"))
    assert refused(bearer, sign(KEY, iss="two")) is DenyReason.CREDENTIAL_INVALID


def test_two_issuers_may_share_a_key_file(settings: BearerSettings) -> None:
    other = replace(settings.issuers[0], issuer="two")
    bearer = load_bearer(replace(settings, issuers=(*settings.issuers, other)))
    for issuer in (ISSUER, "two"):
        accepted(bearer, sign(iss=issuer))


def test_without_a_kid_only_a_few_keys_are_tried(tmp_path: Path) -> None:
    keys = [generate_signing_key() for _ in range(5)]
    files = [write_signing_key(key, tmp_path, f"k{n}")[1] for n, key in enumerate(keys)]

    def bearer(count: int) -> BearerAuthenticator:
        issuer = IssuerSettings(issuer=ISSUER, key_files=tuple(files[:count]))
        return load_bearer(BearerSettings(audiences=(AUDIENCE,), issuers=(issuer,)))

    accepted(bearer(4), sign(keys[3], {}))
    assert refused(bearer(5), sign(keys[3], {})) is DenyReason.CREDENTIAL_INVALID
    accepted(bearer(5), sign(keys[3]))


def test_groups_are_ignored_when_no_claim_is_configured(settings: BearerSettings) -> None:
    bearer = load_bearer(replace(settings, groups_claim=None))
    assert accepted(bearer, sign(groups="nonsense")).groups == ()


def test_tokens_that_live_too_long_are_refused_when_asked(settings: BearerSettings) -> None:
    bearer = load_bearer(replace(settings, max_lifetime_s=50.0))
    assert refused(bearer, sign()) is DenyReason.CREDENTIAL_INVALID
    accepted(bearer, sign(exp=NOW_S + 50))


def test_a_verified_token_is_not_verified_again_and_the_memory_is_bounded(
    settings: BearerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bearer = load_bearer(replace(settings, cache_tokens=2))
    calls: list[str] = []
    real: Callable[..., Any] = jwt.decode

    def counting(token: str, *arguments: Any, **options: Any) -> Any:
        calls.append(token)
        return real(token, *arguments, **options)

    monkeypatch.setattr(jwt, "decode", counting)
    tokens = [sign(jti=f"t{number}") for number in range(3)]
    for token in (*tokens, tokens[2], tokens[0]):
        accepted(bearer, token)
    assert calls == [*tokens, tokens[0]]


def test_every_problem_of_the_key_files_is_reported_together(tmp_path: Path) -> None:
    settings = BearerSettings(
        audiences=(),
        issuers=(
            IssuerSettings(issuer="a", key_files=(tmp_path / "x", tmp_path / "y")),
            IssuerSettings(issuer="b"),
        ),
    )
    with pytest.raises(ConfigError) as caught:
        load_bearer(settings)
    details = [problem.detail for problem in caught.value.problems]
    assert len(details) == 4
    assert "issuer 'b' has no key" in details


def test_trust_ends_with_the_key(settings: BearerSettings) -> None:
    principal = accepted(load_bearer(settings), sign())
    fewer = replace(settings.issuers[0], key_files=settings.issuers[0].key_files[1:])
    assert load_bearer(settings).still_trusts(principal)
    assert not load_bearer(replace(settings, issuers=(fewer,))).still_trusts(principal)


PIECES = st.one_of(
    st.text(alphabet='ab01{}[]":,._-', max_size=20),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["alg", "kid", "typ", "crit", "b64", "zip", "exp"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=6,
    ).map(encode_part),
)
FUZZ_KEY = IssuerKey(
    issuer=ISSUER,
    key=VerificationKey(algorithm=Algorithm.HS256, kid=None, key=SECRET),
)


@given(st.lists(PIECES, min_size=1, max_size=4).map(".".join))
def test_no_token_makes_it_raise(token: str) -> None:
    bearer = BearerAuthenticator(BearerSettings(audiences=(AUDIENCE,), issuers=()), (FUZZ_KEY,))
    assert isinstance(bearer.verify(token, now_s=NOW_S), Denial)


BOUND = {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": encode_part(bytes(range(32)))}}


def test_key_that_a_token_is_bound_to_is_its_principals(bearer: BearerAuthenticator) -> None:
    assert accepted(bearer, sign(cnf=BOUND)).peer_id == bytes(range(32))
    assert accepted(bearer, sign()).peer_id is None


@pytest.mark.parametrize(
    "cnf",
    [
        {},
        {"jkt": "thumbprint"},
        "key",
        {"jwk": {"kty": "EC", "crv": "P-256", "x": "AAAA"}},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": encode_part(bytes(31))}},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "ä"}},
        {"jwk": {"kty": "OKP", "crv": "Ed25519"}},
    ],
)
def test_token_that_is_bound_in_a_way_we_do_not_know_is_refused(
    bearer: BearerAuthenticator, cnf: object
) -> None:
    assert refused(bearer, sign(cnf=cnf)) is DenyReason.CREDENTIAL_INVALID
