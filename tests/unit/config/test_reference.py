"""config/reference.py: the generated key-by-key reference."""

from pathlib import Path

from masque_relay.config.reference import config_reference

ROOT = Path(__file__).parents[3]


def test_the_committed_reference_is_current() -> None:
    committed = ROOT / "docs" / "reference" / "config.md"
    assert committed.read_text(encoding="utf-8") == config_reference(), (
        "run: ghostctl relay config-reference > docs/reference/config.md"
    )


def test_every_key_says_what_it_is_for() -> None:
    unexplained = [line for line in config_reference().splitlines() if line.endswith("|  |")]
    assert unexplained == []
