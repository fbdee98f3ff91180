"""`ghostctl policy`: what people see, what scripts get, exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masque_relay.cli.output import ExitCode
from masque_relay.cli.policy import policy

GOOD = """
[group.staff]
subjects = ["alice"]
[[rule]]
name = "no-quad-eight"
action = "deny"
who = ["*"]
methods = ["*"]
targets = ["8.8.8.0/24:*"]
[[rule]]
name = "web"
action = "allow"
who = ["group:staff"]
methods = ["connect-udp"]
targets = ["*:443", "0.0.0.0/0:53"]
[[test]]
as = "alice"
method = "connect-udp"
target = "1.1.1.1:443"
expect = "allow"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "policy.toml"
    made.write_text(GOOD)
    return made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments])


def explain(file: Path, *arguments: str) -> Result:
    return run("explain", "--policy", file, "--as", "alice", *arguments)


def test_a_good_policy_is_said_to_be_good_with_its_warnings(file: Path) -> None:
    result = run("check", file)
    assert result.exit_code == ExitCode.OK
    assert "good (2 rules, 1 group, 1 test passed)" in result.stdout
    assert "0.0.0.0/0:53 does not reach the protected addresses" in result.stderr
    document = json.loads(run("check", "--json", file).stdout)
    assert (document["ok"], document["rules"], len(document["warnings"])) == (True, 2, 1)


def test_a_bad_policy_is_refused_with_every_place_and_exit_code_2(file: Path) -> None:
    file.write_text(
        GOOD.replace("*:443", "*").replace("8.8.8.0/24:*", "8.8.8.0/24").replace("deny", "no")
    )
    result = run("check", file)
    assert result.exit_code == ExitCode.USAGE
    assert f"{file}:6: rule[0].action: 'no' is not one of allow, deny" in result.stderr
    assert f"{file}:9: rule[0].targets[0]: no port" in result.stderr
    assert "2 problems" in result.stderr
    assert "next: " in result.stderr
    problems = json.loads(run("check", "--json", file).stdout)["problems"]
    assert [problem["line"] for problem in problems] == [6, 9]


def test_a_failing_test_in_the_policy_is_a_failure_of_the_check(file: Path) -> None:
    file.write_text(GOOD.replace('expect = "allow"', 'expect = "deny"'))
    result = run("check", file)
    assert result.exit_code == ExitCode.USAGE
    assert "expected deny for 1.1.1.1:443, got allow by rule 'web'" in result.stderr
    assert "ghostctl policy explain" in result.stderr


def test_a_missing_file_is_exit_code_2(tmp_path: Path) -> None:
    assert run("check", tmp_path / "no.toml").exit_code == ExitCode.USAGE


def test_a_policy_without_tests_is_good_but_gets_a_hint(file: Path) -> None:
    file.write_text(GOOD[: GOOD.index("[[test]]")])
    assert "add [[test]] tables" in run("check", file).stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["connect-udp", "1.1.1.1:443"], ExitCode.OK, "ALLOW (rule 'web')"),
        (["connect-udp", "example.org:443"], ExitCode.OK, "PENDING"),
        (
            ["connect-udp", "example.org:443", "--address", "8.8.8.8"],
            ExitCode.REFUSED,
            "DENY (rule 'no-quad-eight')",
        ),
        (
            ["connect-udp", "example.org:443", "--address", "10.0.0.1"],
            ExitCode.REFUSED,
            "protected address (private)",
        ),
        (["connect-udp", "example.org:80"], ExitCode.REFUSED, "DENY (no rule matched)"),
        (["bind-udp"], ExitCode.REFUSED, "DENY"),
        (["connect-udp"], ExitCode.USAGE, "needs a TARGET"),
        (["connect-udp", "example.org"], ExitCode.USAGE, "is no target"),
        (["connect-udp", "1.1.1.1:443", "--address", "1.1.1.1"], ExitCode.USAGE, "that is a name"),
        (["bind-udp", "--address", "1.1.1.1"], ExitCode.USAGE, "needs a TARGET"),
        (["connect-udp", "a.example:1", "--address", "x"], ExitCode.USAGE, "not an IP address"),
        (["connect-udp", "a.example:1", "--at", "noon"], ExitCode.USAGE, "is not a time"),
        (["connect-udp", "a.example:1", "--at", "2026-01-01T00:00:00"], ExitCode.USAGE, "offset"),
        (["conect-udp", "a.example:1"], ExitCode.USAGE, "Invalid value"),
    ],
)
def test_explanations(file: Path, arguments: list[str], exit_code: ExitCode, says: str) -> None:
    result = explain(file, *arguments)
    assert result.exit_code == exit_code, result.output
    assert says in result.output


IP_POLICY = """
[[rule]]
name = "lab"
action = "allow"
who = ["*"]
methods = ["connect-ip"]
targets = ["10.20.0.0/16:22", "*.lab.example:80"]

[[test]]
as = "alice"
method = "connect-ip"
target = "10.0.0.0/8"
expect = "pending"
rule = "lab"

[[test]]
as = "alice"
method = "connect-ip"
target = "www.lab.example"
address = "10.9.0.1"
expect = "deny"

[[test]]
as = "alice"
method = "connect-ip"
target = "10.20.0.1:22"
expect = "allow"
"""


@pytest.mark.parametrize(
    ("target", "exit_code", "says"),
    [
        ("10.20.0.0/24", ExitCode.OK, "each packet: the tunnel opens"),
        ("*", ExitCode.OK, "next: ask again with a TARGET such as"),
        ("www.lab.example", ExitCode.OK, "PENDING"),
        ("10.20.0.1:22", ExitCode.OK, "ALLOW (rule 'lab')"),
        ("10.20.0.1:23", ExitCode.REFUSED, "DENY (no rule matched)"),
        ("10.30.0.0/16", ExitCode.REFUSED, "DENY (no rule matched)"),
        ("10.20.0.1/16", ExitCode.USAGE, "host bits"),
    ],
)
def test_connect_ip_is_asked_by_scope_or_by_packet(
    tmp_path: Path, target: str, exit_code: ExitCode, says: str
) -> None:
    file = tmp_path / "ip.toml"
    file.write_text(IP_POLICY)
    result = run("explain", "--policy", str(file), "--as", "alice", "connect-ip", target)
    assert result.exit_code == exit_code
    assert says in result.output + result.stderr


@pytest.mark.parametrize("place", ["policy.toml", "state/policy.toml"])
def test_the_policy_of_this_directory_or_of_its_development_relay_is_taken(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text(GOOD)
    result = run("explain", "--as", "alice", "connect-udp", "example.org:443")
    assert result.exit_code == ExitCode.OK, result.output
    assert "rule" in result.stdout


def test_without_any_policy_the_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("explain", "--as", "alice", "connect-udp", "example.org:443")
    assert result.exit_code == ExitCode.USAGE
    assert "--policy FILE" in result.stderr


def test_an_explanation_says_why_earlier_rules_did_not_match(file: Path) -> None:
    document = json.loads(explain(file, "--json", "connect-udp", "1.1.1.1:443").stdout)
    assert (document["outcome"], document["rule"]) == ("allow", "web")
    first, second = document["steps"]
    assert (first["match"], first["line"]) == ("no", 4)
    assert first["why"] == "targets: 1.1.1.1, port 443 is not among 8.8.8.0/24:*"
    assert (second["match"], second["why"]) == ("yes", "targets: *:443")


def test_a_denial_in_json_has_reason_and_exit_code_3(file: Path) -> None:
    result = explain(file, "--json", "connect-udp", "127.0.0.1:443")
    assert result.exit_code == ExitCode.REFUSED
    assert json.loads(result.stdout)["reason"] == "address_prohibited"


def test_an_unusable_policy_can_not_explain_anything(file: Path) -> None:
    file.write_text("rule = 3")
    result = explain(file, "--json", "connect-udp", "127.0.0.1:443")
    assert result.exit_code == ExitCode.USAGE
    assert json.loads(result.stdout)["ok"] is False


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["explain", "--help"]])
def test_help_shows_examples(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == ExitCode.OK
    assert "Examples:\n" in result.output
    assert "ghostctl policy" in result.output
