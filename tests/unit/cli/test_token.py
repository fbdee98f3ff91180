"""`ghostctl token`: issue, inspect, and never trust what is shown."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masque_relay.cli.output import ExitCode
from masque_relay.cli.token import token
from masque_relay.control.auth.keys import generate_signing_key, write_signing_key
from masque_relay.control.auth.tokens import issue_token, read_token
from masque_relay.wire.peer_id import format_peer_id

KEY = generate_signing_key()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write_signing_key(KEY, tmp_path)[0]


def run(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(token, [str(argument) for argument in arguments], input=given)


def issue(key_file: Path, *arguments: str) -> Result:
    common = ("--subject", "alice", "--audience", "relay.example", "--issuer", "i")
    return run("issue", "--key", key_file, *common, *arguments)


def made(**changes: str) -> str:
    return issue_token(
        KEY,
        subject=changes.get("subject", "alice"),
        audience="relay.example",
        issuer="i",
        lifetime_s=3600,
        now_s=time.time(),
    )


def test_an_issued_token_says_what_was_asked(key_file: Path) -> None:
    result = issue(key_file, "--expires", "2h", "--group", "a", "--group", "b", "--token-id", "t")
    assert result.exit_code == ExitCode.OK
    claims = read_token(result.stdout.strip()).claims
    assert (claims["sub"], claims["aud"], claims["iss"]) == ("alice", "relay.example", "i")
    assert (claims["groups"], claims["jti"]) == (["a", "b"], "t")
    assert isinstance(claims["exp"], int)
    assert isinstance(claims["iat"], int)
    assert claims["exp"] - claims["iat"] == 7200


def test_token_for_a_peer_is_bound_to_its_key(key_file: Path) -> None:
    peer = format_peer_id(bytes(range(32)))
    claims = read_token(issue(key_file, "--peer", peer).stdout.strip()).claims
    x = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert claims["cnf"] == {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}}

    refused = issue(key_file, "--peer", "nobody")
    assert refused.exit_code == ExitCode.USAGE
    assert "ghostctl peer id" in refused.stderr


def test_several_audiences_make_a_list(key_file: Path) -> None:
    claims = read_token(issue(key_file, "--audience", "two").stdout.strip()).claims
    assert claims["aud"] == ["relay.example", "two"]


def test_json_gives_id_and_expiry_for_later_revocation(key_file: Path) -> None:
    document = json.loads(issue(key_file, "--json").stdout)
    claims = read_token(document["token"]).claims
    assert (document["token_id"], document["expires_s"]) == (claims["jti"], claims["exp"])


@pytest.mark.parametrize("text", ["1", "1w", "-1h", "0s", "h", "1.5h", ""])
def test_a_wrong_duration_is_exit_code_2(key_file: Path, text: str) -> None:
    assert issue(key_file, "--expires", text).exit_code == ExitCode.USAGE


@pytest.mark.parametrize("arguments", [["--subject", "a\nb"], ["--group", ""]])
def test_names_that_no_relay_accepts_are_refused(key_file: Path, arguments: list[str]) -> None:
    assert issue(key_file, *arguments).exit_code == ExitCode.USAGE


def test_a_missing_key_is_exit_code_2(tmp_path: Path) -> None:
    result = issue(tmp_path / "none.pem")
    assert result.exit_code == ExitCode.USAGE
    assert "can't be read" in result.stderr
    assert "ghostctl key generate" in result.stderr


def test_a_token_is_shown_from_standard_input(key_file: Path) -> None:
    result = run("inspect", "-", given=made() + "\n")
    assert result.exit_code == ExitCode.OK
    assert "alice" in result.stdout
    assert "signature: not checked" in result.stdout
    assert "(in 1.0 h)" in result.stdout or "(in 3" in result.stdout


def test_the_signature_is_checked_against_a_key_file(key_file: Path, tmp_path: Path) -> None:
    public = tmp_path / "signing.pub.pem"
    good = run("inspect", "--keys", public, "--json", "-", given=made())
    assert (good.exit_code, json.loads(good.stdout)["signature"]) == (ExitCode.OK, "good")
    public.write_bytes(generate_signing_key().public_pem())
    bad = run("inspect", "--keys", public, "--json", "-", given=made())
    assert (bad.exit_code, json.loads(bad.stdout)["signature"]) == (ExitCode.FAILED, "bad")
    assert "signature: BAD" in run("inspect", "--keys", public, "-", given=made()).stdout


def test_what_is_no_token_is_exit_code_1() -> None:
    result = run("inspect", "nonsense")
    assert result.exit_code == ExitCode.FAILED
    assert "not a token" in result.stderr


def test_a_key_file_that_is_none_is_exit_code_2(tmp_path: Path) -> None:
    assert run("inspect", "--keys", tmp_path / "x", made()).exit_code == ExitCode.USAGE


def test_a_hostile_token_can_not_write_to_the_terminal() -> None:
    result = run("inspect", "-", given=made(subject="\x1b[2Jevil"))
    assert "\x1b[2J" not in result.stdout
    assert "?[2Jevil" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["issue"], ["inspect"]])
def test_help_shows_examples(arguments: list[str]) -> None:
    assert "Examples:\n" in run(*arguments, "--help").output
