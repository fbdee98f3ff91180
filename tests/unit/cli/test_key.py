"""`ghostctl key`: files on disk, hashes on stdout, nothing overwritten."""

import json
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from click.testing import CliRunner, Result

from masque_relay.cli.key import key
from masque_relay.cli.output import ExitCode
from masque_relay.control.auth.keys import load_public_keys, load_signing_key


def run(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(key, [str(argument) for argument in arguments], input=given)


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_key_pair_is_written_and_named(tmp_path: Path, algorithm: str) -> None:
    result = run("generate", "--algorithm", algorithm, "--out", tmp_path, "--json")
    assert result.exit_code == ExitCode.OK
    document = json.loads(result.stdout)
    signing = load_signing_key(Path(document["private_key_file"]))
    (public,) = load_public_keys(Path(document["public_key_file"]))
    assert signing.kid == public.kid == document["kid"]
    assert document["algorithm"] == algorithm
    assert "PRIVATE" not in result.output


def test_the_next_step_is_shown(tmp_path: Path) -> None:
    result = run("generate", "--out", tmp_path / "keys", "--name", "issuer")
    assert "next: ghostctl token issue --key" in result.stdout
    assert (tmp_path / "keys" / "issuer.key.pem").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run("generate", "--out", tmp_path)
    before = (tmp_path / "signing.key.pem").read_bytes()
    result = run("generate", "--out", tmp_path)
    assert result.exit_code == ExitCode.FAILED
    assert "never overwritten" in result.stderr
    assert (tmp_path / "signing.key.pem").read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["--algorithm", "HS256"], ["--algorithm", "none"], ["--name", "../x"]]
)
def test_what_makes_no_sense_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    assert run("generate", "--out", tmp_path, *arguments).exit_code == ExitCode.USAGE


def test_a_directory_that_cannot_be_written_is_a_failure_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("generate", "--out", tmp_path / "file" / "keys")
    assert result.exit_code == ExitCode.FAILED
    assert "--out" in result.stderr


def test_a_password_is_asked_twice_and_hashed() -> None:
    result = run("hash-password", given="hunter2\nhunter2\n")
    assert result.exit_code == ExitCode.OK
    hashed = result.stdout.strip().splitlines()[-1]
    assert PasswordHasher().verify(hashed, "hunter2")
    assert "hunter2" not in result.output


def test_a_password_can_come_from_a_pipe() -> None:
    result = run("hash-password", "--stdin", "--json", given="hunter2\n")
    assert PasswordHasher().verify(json.loads(result.stdout)["password_hash"], "hunter2")


@pytest.mark.parametrize("given", ["\n", "", "x" * 1025 + "\n"])
def test_an_empty_or_huge_password_is_refused(given: str) -> None:
    assert run("hash-password", "--stdin", given=given).exit_code == ExitCode.USAGE


@pytest.mark.parametrize("arguments", [[], ["generate"], ["hash-password"]])
def test_help_shows_examples(arguments: list[str]) -> None:
    result = run(*arguments, "--help")
    assert "Examples:\n" in result.output
