"""Owns the tests of credentials: files, headers, and that no secret is shown."""

from base64 import b64decode
from pathlib import Path

import pytest

from masque_relay.client.credentials import Basic, Bearer, MutualTls, authorization_of, read_login
from masque_relay.client.errors import CredentialError

SECRET = "s3cr3t-value"


def test_a_bearer_token_becomes_the_header(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert authorization_of(Bearer(file=file)) == b"Bearer " + SECRET.encode()
    assert authorization_of(Bearer(token=SECRET)) == b"Bearer " + SECRET.encode()


def test_a_token_file_is_read_again_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    credential = Bearer(file=file)
    file.write_text("old")
    assert authorization_of(credential) == b"Bearer old"
    file.write_text("new")
    assert authorization_of(credential) == b"Bearer new"


def test_basic_is_user_and_password_in_base64(tmp_path: Path) -> None:
    file = tmp_path / "basic"
    file.write_text("alice:pass:word\n")
    header = authorization_of(Basic(file=file))
    assert header is not None
    assert b64decode(header.removeprefix(b"Basic ")) == b"alice:pass:word"
    assert authorization_of(Basic(user="alice", password="pass:word")) == header


def test_no_credential_sends_no_header(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c", tmp_path / "k"
    certificate.write_text("x")
    key.write_text("x")
    assert authorization_of(None) is None
    assert authorization_of(MutualTls(certificate_file=certificate, key_file=key)) is None


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"line\nline", "\u00e9".encode()])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(CredentialError, match="holds no bearer token"):
        authorization_of(Bearer(file=file))


@pytest.mark.parametrize("content", [b"", b"alice", b":password", b"a:b\nc:d"])
def test_a_file_that_holds_no_user_and_password_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "basic"
    file.write_bytes(content)
    with pytest.raises(CredentialError, match="holds no user and password"):
        authorization_of(Basic(file=file))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for credential in (
        Bearer(file=absent),
        Basic(file=absent),
        MutualTls(certificate_file=absent, key_file=absent),
    ):
        with pytest.raises(CredentialError, match="absent") as refused:
            authorization_of(credential)
        assert refused.value.hint


@pytest.mark.parametrize("content", [b"x" * 16_385, b"\xff\xfe"])
def test_a_file_that_cannot_be_a_token_is_refused_without_its_content(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(CredentialError) as refused:
        authorization_of(Bearer(file=file))
    assert "xxx" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(Bearer(token=SECRET))
    assert SECRET not in repr(Basic(user="alice", password=SECRET))


def test_a_login_of_the_local_proxy_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "user"
    file.write_text(f"ann:{SECRET}:x\n")
    login = read_login(file)
    assert login.accepts(b"ann", f"{SECRET}:x".encode())
    assert not login.accepts(b"ann", SECRET.encode())
    assert not login.accepts(b"Ann", f"{SECRET}:x".encode())


@pytest.mark.parametrize("content", ["", "ann", ":x", "ann:", "a:b\nc:d", "a" * 256 + ":x"])
def test_a_login_that_programs_could_not_give_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "user"
    file.write_text(content)
    with pytest.raises(CredentialError) as refused:
        read_login(file)
    assert refused.value.hint is not None
