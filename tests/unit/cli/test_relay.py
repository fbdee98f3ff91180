"""ghostctl relay: arguments, exit codes and words, without a relay."""

import json
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masque_relay.cli.relay import greeting, relay
from masque_relay.config.dev_state import DevState, prepare_dev_state
from masque_relay.config.reference import config_reference
from masque_relay.contract.address import Endpoint
from masque_relay.server import Serving


@pytest.fixture
def state(tmp_path: Path) -> DevState:
    return prepare_dev_state(tmp_path / "state")


def ghostctl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(relay, [str(argument) for argument in arguments])


def test_check_config_passes_a_good_file(state: DevState) -> None:
    result = ghostctl("check-config", state.config_file)
    assert result.exit_code == 0
    assert "no problems" in result.stdout


def test_check_config_names_every_problem_as_text_and_as_json(state: DevState) -> None:
    state.policy_file.write_text("[[rule]]\nnam = 'x'\n")
    state.key_file.unlink()
    text = ghostctl("check-config", state.config_file)
    assert text.exit_code == 2
    assert "policy.toml:2: rule[0].nam" in text.stderr
    assert "key.pem: tls.key_file: can't be read" in text.stderr
    machine = ghostctl("check-config", state.config_file, "--json")
    assert machine.exit_code == 2
    *problems, hint = text.stderr.splitlines()
    assert json.loads(machine.stdout)["problems"] == problems
    assert "docs/reference/config.md" in hint


def test_config_reference_prints_the_reference() -> None:
    assert ghostctl("config-reference").stdout == config_reference()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "name either a configuration file or --dev"),
        (["run", "relay.toml", "--dev"], "name either a configuration file or --dev"),
        (["run", "--dev", "--listen", "4433"], "--listen: '4433' is not ADDRESS:PORT"),
        (["run", "--dev", "--admin", "x"], "--admin: 'x' is not ADDRESS:PORT"),
        (["revoke"], "nothing to revoke"),
        (["status", "--state-dir", "/no/such/directory"], "which relay?"),
        (["status", "--admin", "http://127.0.0.1:1"], "which relay?"),
        (
            ["status", "--admin", "http://127.0.0.1:1", "--admin-token-file", "/no/token"],
            "/no/token: the admin token can't be read",
        ),
    ],
)
def test_bad_arguments_end_with_2_before_anything_is_tried(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ghostctl(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_newcomer_is_told_what_to_type_and_what_is_dangerous(
    state: DevState, capsys: pytest.CaptureFixture[str]
) -> None:
    greeting(state)(
        Serving(
            h3_address=Endpoint(address=ip_address("127.0.0.1"), port=4433),
            admin_url="http://127.0.0.1:9443",
            admin_token_file="x",
        )
    )
    said = capsys.readouterr().out
    assert (
        f"ghostctl tunnel udp --relay https://127.0.0.1:4433 --ca {state.ca_file} "
        f"--token-file {state.token_file} " in said
    )
    assert "LOOPBACK" in said
    assert state.token_file.read_text().strip() not in said
