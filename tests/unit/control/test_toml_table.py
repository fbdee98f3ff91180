"""Tables are read strictly; problems gather with their places."""

from collections.abc import Callable

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.control.toml_table import TomlSource, TomlTable, did_you_mean


def source(text: str) -> TomlSource:
    return TomlSource(text, file="x.toml")


@pytest.mark.parametrize(
    ("value", "read", "says"),
    [
        ("3", lambda table: table.text("k"), "must be a non-empty string, not a number"),
        ('""', lambda table: table.text("k"), "must be a non-empty string, not an empty string"),
        ("-3", lambda table: table.integer("k", minimum=0), "not a negative number"),
        ("1.5", lambda table: table.integer("k", minimum=0), "must be a whole number"),
        ("0", lambda table: table.seconds("k"), "must be a positive number of seconds"),
        ("inf", lambda table: table.seconds("k"), "must be a positive number of seconds"),
        ("[]", lambda table: table.table("k"), "must be a table, not an empty list"),
        ("{}", lambda table: table.tables("k"), "must be written as [[k]], not a table"),
        ("[1]", lambda table: table.tables("k"), "must be a table, not a number"),
        ("1", lambda table: table.boolean("k", default=True), "must be true or false"),
        ("2026-01-01T00:00:00", lambda table: table.instant("k"), "date-time with offset"),
        ("[1]", lambda table: table.texts("k"), "k[0]: must be a non-empty string"),
        ('"yess"', lambda table: table.word("k", ("yes", "no")), "did you mean 'yes'?"),
    ],
)
def test_a_wrong_value_is_reported_at_its_line(
    value: str, read: Callable[[TomlTable], object], says: str
) -> None:
    toml = source(f"# first line\nk = {value}\n")
    read(toml.root)
    with pytest.raises(ConfigError) as caught:
        toml.raise_problems()
    (problem,) = caught.value.problems
    assert problem.line == 2
    assert says in str(problem)


def test_good_values_come_back() -> None:
    toml = source('a = "x"\nb = 2\nc = 1.5\nd = true\ne = 1970-01-01T00:00:10Z\nf = ["y"]\n')
    root = toml.root
    assert root.text("a") == "x"
    assert root.integer("b", minimum=2) == 2
    assert root.seconds("c") == 1.5
    assert root.boolean("d", default=False)
    assert root.instant("e") == 10.0
    assert root.texts("f") == [(0, "y")]
    root.finish()
    toml.raise_problems()


def test_absent_keys_are_none_and_required_ones_are_reported() -> None:
    toml = source("")
    assert toml.root.text("a") is None
    assert toml.root.tables("b") == []
    assert toml.problems == []
    toml.root.text("c", required=True)
    assert "c is missing" in str(toml.problems[0])


def test_unknown_keys_are_reported_with_the_nearest_known_one() -> None:
    toml = source("tunnles = 1\n")
    toml.root.integer("tunnels", minimum=1)
    toml.root.finish()
    assert str(toml.problems[0]) == "x.toml:1: tunnles: unknown key (did you mean 'tunnels'?)"


def test_text_that_is_not_toml_is_reported_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"x\.toml:2: not TOML"):
        source("a = 1\nb = \n")


def test_deep_nesting_is_a_problem_not_a_crash() -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        source("a = " + "[" * 5000)


def test_a_hint_is_given_only_when_a_word_is_near() -> None:
    assert did_you_mean("x", ["tunnels"]) is None
