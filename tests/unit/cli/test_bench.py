"""`ghostctl bench`: which options go together, before anything is opened."""

import pytest
from click.testing import CliRunner

from masque_relay.cli.main import main

RELAY = "https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([RELAY, "--smoke"], "--smoke means nothing with RELAY"),
        ([RELAY, "--repetitions", "2"], "--repetitions means nothing with RELAY"),
        ([RELAY, "--max-answers", "5"], "--max-answers means nothing with RELAY"),
        (["--target", "192.0.2.1:9"], "--target means nothing without RELAY"),
        (["--token-file", "token"], "--token-file means nothing without RELAY"),
        (["--http", "2"], "--http means nothing without RELAY"),
        ([RELAY, "--serve-echo", ":0"], "RELAY means nothing with --serve-echo"),
        (["--serve-echo", ":0", "--tunnels", "2"], "--tunnels means nothing with --serve-echo"),
        (["--serve-echo", "example.org:9"], "must be an IP address"),
        ([RELAY, "--target", "192.0.2.1"], "has no port"),
        ([RELAY, "--size", "24"], "24 is not in the range"),
        ([RELAY, "--tunnels", "65"], "65 is not in the range"),
        (["http://127.0.0.1:1"], "is not a relay's https URL"),
        ([RELAY, "--token-file", "a", "--basic-file", "b"], "give one credential only"),
    ],
)
def test_bad_arguments_are_told(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments])

    assert result.exit_code == 2
    assert said in result.stderr
