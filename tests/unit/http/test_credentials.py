"""Credentials from header fields and certificates."""

import base64

import pytest

from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    ClientCertificate,
    MalformedCredential,
)
from masque_relay.http.credentials import (
    parse_authorization,
    parse_credentials,
    presents_proxy_credential,
)


def basic(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return b"Basic " + base64.b64encode(raw)


@pytest.mark.parametrize(
    "value", [b"Bearer abc.def-_~+/==", b"bearer abc.def-_~+/==", b"BEARER  abc.def-_~+/=="]
)
def test_bearer_token_is_read_whatever_the_case_of_the_scheme(value: bytes) -> None:
    assert parse_authorization(value) == BearerToken(token="abc.def-_~+/==")


def test_basic_password_may_hold_colons_and_unicode() -> None:
    credential = parse_authorization(basic("alice:pass:wörd"))

    assert credential == BasicPassword(user="alice", password="pass:wörd")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer two words",
        b"Bearer t\xc3\xb6ken",
        b"Basic !!!",
        b"Basic",
        basic("no colon"),
        basic(b"alice:\xff"),
        basic("ali\0ce:x"),
        b"Negotiate abc",
        b"Concealed k=x",
    ],
)
def test_what_cannot_be_read_is_malformed_never_ignored(value: bytes) -> None:
    assert isinstance(parse_authorization(value), MalformedCredential)


def test_bare_secret_does_not_become_the_scheme() -> None:
    assert parse_authorization(b"eyJhbGciOiJFZERTQSJ9.secret") == MalformedCredential(scheme="")


def test_long_scheme_is_cut() -> None:
    credential = parse_authorization(b"x" * 100 + b" y")

    assert credential == MalformedCredential(scheme="x" * 32)


def test_order_is_proxy_authorization_then_authorization_then_certificate() -> None:
    fields = [(b"authorization", b"Bearer second"), (b"proxy-authorization", b"Bearer first")]

    assert parse_credentials(fields, [b"leaf", b"issuer"]) == (
        BearerToken(token="first"),
        BearerToken(token="second"),
        ClientCertificate(chain_der=(b"leaf", b"issuer")),
    )


def test_no_credential_is_an_empty_tuple() -> None:
    assert parse_credentials([(b"accept", b"*/*")], []) == ()


def test_repeated_field_is_malformed() -> None:
    fields = [(b"authorization", b"Bearer good"), (b"authorization", b"Bearer other")]

    assert parse_credentials(fields, []) == (MalformedCredential(scheme="repeated"),)


def test_proxy_authorization_is_noticed() -> None:
    assert presents_proxy_credential([(b"proxy-authorization", b"Bearer x")])
    assert not presents_proxy_credential([(b"authorization", b"Bearer x")])


def test_secrets_stay_out_of_repr() -> None:
    assert "hunter2" not in repr(parse_authorization(basic("alice:hunter2")))
    assert "hunter2" not in repr(parse_authorization(b"Bearer hunter2"))
