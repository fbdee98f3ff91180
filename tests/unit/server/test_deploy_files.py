"""docs/howto/deploy: example configuration, systemd unit and Dockerfile hold together."""

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from masque_relay.cli.relay import relay
from masque_relay.config import RelayConfig, load_config
from masque_relay.control.policy.load import load_policy

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "docs" / "howto" / "deploy"


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """Directive -> its values, in order."""
    values: dict[str, list[str]] = {}
    for line in (DEPLOY / "ghostwire-relay.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values.setdefault(name, []).append(value)
    return values


@pytest.fixture(scope="module")
def config() -> RelayConfig:
    return load_config(DEPLOY / "relay.toml", environ={})


def test_the_example_policy_passes_its_own_tests() -> None:
    assert load_policy(DEPLOY / "policy.toml").warnings == ()


def test_the_supervisor_waits_longer_than_the_relay_drains(
    unit: dict[str, list[str]], config: RelayConfig
) -> None:
    assert int(unit["TimeoutStopSec"][0]) > config.drain.deadline_s


def test_a_bad_configuration_is_not_tried_again(unit: dict[str, list[str]]) -> None:
    assert unit["RestartPreventExitStatus"] == ["2"]


def test_the_unit_calls_commands_that_exist(unit: dict[str, list[str]]) -> None:
    for directive in ("ExecStart", "ExecStartPre", "ExecReload"):
        words = unit[directive][0].split()
        assert words[1] == "relay"
        command = relay.commands[words[2]]
        # Parses the arguments, runs nothing.
        assert isinstance(command.make_context(words[2], words[3:]), click.Context)


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze: .ci/run installs it")
    text = (DEPLOY / "ghostwire-relay.service").read_text()
    unit_file = tmp_path / "ghostwire-relay.service"
    # It looks for the program too, which is installed elsewhere here.
    unit_file.write_text(text.replace("/opt/ghostwire/bin/ghostctl", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", unit_file], capture_output=True, text=True, check=False
    )
    assert "ghostwire-relay" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_reload_of_the_unit_asks_the_admin_listener_of_the_example(
    unit: dict[str, list[str]], config: RelayConfig
) -> None:
    assert f"--admin http://{config.admin.listen} " in unit["ExecReload"][0]


def test_what_the_example_writes_is_in_directories_that_the_unit_may_write(
    unit: dict[str, list[str]], config: RelayConfig
) -> None:
    assert config.audit.file == Path("/var/log/ghostwire/audit.jsonl")
    assert config.gate.revocations_file == Path("/var/lib/ghostwire/revocations.json")
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["LogsDirectory"] == unit["StateDirectory"] == ["ghostwire"]


def test_the_unit_gives_one_capability_and_the_socket_families_that_are_used(
    unit: dict[str, list[str]],
) -> None:
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]
    # AF_NETLINK: the C library asks the kernel which address families the host has.
    assert unit["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX AF_NETLINK"]
    assert unit["NoNewPrivileges"] == ["yes"]


def test_the_file_descriptor_limit_covers_the_tunnels_that_the_gate_allows(
    unit: dict[str, list[str]], config: RelayConfig
) -> None:
    assert int(unit["LimitNOFILE"][0]) > 2 * config.gate.limits.max_tunnels


def test_the_container_drops_root_and_probes_the_admin_listener(config: RelayConfig) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER ghostwire$", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.MULTILINE)
    assert f"http://{config.admin.listen}/healthz" in text
    for source in re.findall(r"--constraint (\S+)", text):
        assert (ROOT / source).exists()


def test_no_secret_of_a_development_relay_gets_into_an_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"state", ".git", ".venv*"} <= set(ignored)
