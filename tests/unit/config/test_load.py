"""config/load.py: the strict reading of the file, the environment and the options."""

from pathlib import Path

import pytest

from masque_relay.admin.address import UnixSocket
from masque_relay.config import LogFormat, load_config
from masque_relay.contract.errors import ConfigError

MINIMAL = """\
[tls]
certificate_file = "cert.pem"
key_file = "/etc/keys/key.pem"

[gate]
policy_file = "policy.toml"

[gate.bearer]
audiences = ["relay"]

[[gate.bearer.issuers]]
issuer = "first"
key_files = ["one.pem"]

[[gate.bearer.issuers]]
issuer = "second"

[admin]
token_file = "admin-token"
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text(MINIMAL)
    return path


def problems_of(path: Path, **arguments: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, **{"environ": {}, **arguments})  # type: ignore[arg-type] (a test's shorthand)
    return [str(problem).removeprefix(str(path)) for problem in caught.value.problems]


def test_defaults_come_from_the_components(config_file: Path) -> None:
    config = load_config(config_file, environ={})
    assert config.quic.limits.idle_timeout_s == 120.0
    assert str(config.listen.h3) == "[::]:443"
    assert str(config.admin.listen) == "127.0.0.1:9443"
    assert config.log.format is LogFormat.JSON


def test_relative_paths_are_beside_the_file_and_absolute_ones_stay(config_file: Path) -> None:
    config = load_config(config_file, environ={})
    assert config.tls.certificate_file == config_file.parent / "cert.pem"
    assert config.tls.key_file == Path("/etc/keys/key.pem")
    assert config.gate.bearer is not None
    assert config.gate.bearer.issuers[0].key_files == (config_file.parent / "one.pem",)


def test_values_are_frozen(config_file: Path) -> None:
    config = load_config(config_file, environ={})
    with pytest.raises(Exception, match="frozen"):
        config.drain.deadline_s = 1.0  # type: ignore[misc] (that it is refused is the point)


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("[bogus]\n", ":20: bogus: is not a known key"),
        ("[drain]\ndeadline = 3\n", ":21: drain.deadline: is not a known key"),
        ("[quic.limits]\nidle_s = 3\n", ":21: quic.limits.idle_s: is not a known key"),
        ("[drain]\ndeadline_s = -1\n", ":21: drain.deadline_s: must be greater than or equal to 0"),
        ("[drain]\ndeadline_s = nan\n", ":21: drain.deadline_s: must be a valid number"),
        ("[drain]\ndeadline_s = '3'\n", ":21: drain.deadline_s: must be a valid number"),
        (
            "[quic.limits]\nmax_half_open = -5\n",
            ":21: quic.limits.max_half_open: must be zero or more, and finite",
        ),
        (
            "[quic.limits]\nmax_half_open = true\n",
            ":21: quic.limits.max_half_open: must be a valid integer",
        ),
        (
            "[quic.limits]\nretry_mode = 'x'\n",
            ":21: quic.limits.retry_mode: must be 'never', 'adaptive' or 'always'",
        ),
        (
            "[listen]\nh3 = 'localhost:1'\n",
            ":21: listen.h3: 'localhost:1' is not ADDRESS:PORT, such as 192.0.2.1:443 or [::]:443",
        ),
        (
            "[listen]\nh3 = '[::]:70000'\n",
            ":21: listen.h3: '[::]:70000' is not ADDRESS:PORT, such as 192.0.2.1:443 or [::]:443",
        ),
        ("[dns]\nhosts = {a = ['x']}\n", ":21: dns.hosts.a[0]: must be an IP address, in quotes"),
    ],
)
def test_a_bad_key_is_named_with_its_line(config_file: Path, added: str, expected: str) -> None:
    config_file.write_text(MINIMAL + added)
    assert expected in problems_of(config_file)


def test_all_problems_are_reported_at_once_in_file_order(config_file: Path) -> None:
    text = MINIMAL.replace('issuer = "second"', 'isuer = "second"').replace("[admin]", "[admn]")
    config_file.write_text(text)
    assert problems_of(config_file) == [
        ": admin: is required",
        ":15: gate.bearer.issuers[1].issuer: is required",
        ":16: gate.bearer.issuers[1].isuer: is not a known key",
        ":18: admn: is not a known key",
    ]


def test_a_template_without_its_variables_is_refused(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "[connect_udp]\ntemplates = ['/masque/{target_host}']\n")
    [problem] = problems_of(config_file)
    assert problem.startswith(":21: connect_udp.templates")
    assert "target_port" in problem


def test_broken_toml_names_the_line(config_file: Path) -> None:
    config_file.write_text("[tls]\nkey_file = \n")
    [problem] = problems_of(config_file)
    assert problem.startswith(":2: is not TOML")


def test_a_missing_file_and_one_that_is_not_text_are_named(tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path / "absent.toml")
    assert "can't be read" in problem
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert problems_of(binary) == [": is not UTF-8 text"]


def test_the_environment_wins_over_the_file(config_file: Path) -> None:
    config = load_config(
        config_file,
        environ={
            "GHOSTWIRE__QUIC__LIMITS__IDLE_TIMEOUT_S": "30",
            "GHOSTWIRE__LOG__FORMAT": "console",
            "GHOSTWIRE__DNS__SERVERS": '["192.0.2.53"]',
            "GHOSTWIRE__ADMIN__LISTEN": "unix:/run/ghostwire.sock",
            "UNRELATED": "x",
        },
    )
    assert config.quic.limits.idle_timeout_s == 30.0
    assert config.log.format is LogFormat.CONSOLE
    assert config.dns.servers == ("192.0.2.53",)
    assert config.admin.listen == UnixSocket(path=Path("/run/ghostwire.sock"))


def test_a_bad_variable_is_named_instead_of_a_line(config_file: Path) -> None:
    variable = "GHOSTWIRE__DRAIN__DEADLINE_S"
    assert problems_of(config_file, environ={variable: "soon"}) == [
        f"{variable}: drain.deadline_s: must be a valid number"
    ]
    assert problems_of(config_file, environ={"GHOSTWIRE__NOPE": "1"}) == [
        "GHOSTWIRE__NOPE: nope: is not a known key"
    ]


def test_options_win_over_the_environment(config_file: Path) -> None:
    config = load_config(
        config_file,
        environ={"GHOSTWIRE__LISTEN__H3": "192.0.2.1:1"},
        overrides={("listen", "h3"): "127.0.0.1:0"},
    )
    assert str(config.listen.h3) == "127.0.0.1:0"
