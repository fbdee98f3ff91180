"""`ghostctl tunnel udp --bind`: what it takes, before anything is opened."""

import pytest
from click.testing import CliRunner

from masque_relay.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give LISTEN=TARGET forwards, or --bind LOCAL"),
        (["--bind", ":9", ":0=192.0.2.1:53"], "give LISTEN=TARGET forwards, or --bind LOCAL"),
        (["--bind", "example.org:9"], "must be an IP address"),
        (["--bind", ":0"], "port 0 is no program"),
        (["--bind", "9"], "has no port"),
    ],
)
def test_bad_arguments_are_told(arguments: list[str], said: str) -> None:
    command = ["tunnel", "udp", "--relay", "https://127.0.0.1:1", *arguments]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert said in result.stderr
