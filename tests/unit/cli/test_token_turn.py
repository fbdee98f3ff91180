"""`ghostctl token turn` and `turn-key`."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masque_relay.cli.output import ExitCode
from masque_relay.cli.token import token
from masque_relay.control.auth.turn import mint_time_limited, turn_keys

SECRET = b"a shared secret of many bytes"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "turn-secret"
    path.write_bytes(SECRET + b"\n")
    return path


def run(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(token, [str(argument) for argument in arguments], input=given)


def test_turn_mints_what_the_relay_computes_too(secret_file: Path) -> None:
    done = run("turn", "--secret", secret_file, "--subject", "alice", "--expires", "2h", "--json")
    told = json.loads(done.output)
    expiry, _, subject = told["username"].partition(":")
    assert subject == "alice"
    assert abs(int(expiry) - time.time() - 7200) < 60
    expected = mint_time_limited(SECRET, subject="alice", expires_s=int(expiry))
    assert told["credential"] == expected.password
    assert told["ttl"] == 7200


def test_turn_says_where_in_the_form_of_ice_servers(secret_file: Path) -> None:
    uri = "turns:relay.example:5349"
    done = run("turn", "--secret", secret_file, "--subject", "a", "--uri", uri, "--json")
    assert json.loads(done.output)["urls"] == [uri]


def test_turn_speaks_to_people_in_two_lines(secret_file: Path) -> None:
    done = run("turn", "--secret", secret_file, "--subject", "alice")
    assert [line.split()[0] for line in done.output.splitlines()] == ["username", "password"]


def test_turn_refuses_a_short_secret_and_a_bad_subject(tmp_path: Path, secret_file: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x")
    assert run("turn", "--secret", short, "--subject", "a").exit_code == ExitCode.USAGE
    assert run("turn", "--secret", secret_file, "--subject", "").exit_code == ExitCode.USAGE


def test_turn_key_prints_lines_for_the_users_file() -> None:
    done = run("turn-key", "--user", "alice", "--realm", "r", "--stdin", given="secret\n")
    md5, sha256 = turn_keys("alice", "r", "secret")
    assert done.output == f'turn_md5 = "{md5.hex()}"\nturn_sha256 = "{sha256.hex()}"\n'


@pytest.mark.parametrize(("user", "realm"), [("a:b", "r"), ("a", "r:s"), ("", "r"), ("a", "")])
def test_turn_key_refuses_names_that_the_digest_cannot_hold(user: str, realm: str) -> None:
    done = run("turn-key", "--user", user, "--realm", realm, "--stdin", given="x\n")
    assert done.exit_code == ExitCode.USAGE


def test_turn_key_refuses_an_empty_password() -> None:
    done = run("turn-key", "--user", "a", "--realm", "r", "--stdin", given="\n")
    assert done.exit_code == ExitCode.USAGE
