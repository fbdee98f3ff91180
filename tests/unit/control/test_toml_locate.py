"""The locator agrees with tomllib about what is there, and knows where."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.control.toml_locate import KeyPath, Locator, format_key_path

EVERYTHING = r'''# a comment with [brackets] = "and quotes
title = "a # in a string" # and after it
"quoted key" = 'literal \ [x]'
a.b . "c d" = 1
empty = []
numbers = [
  1, # one
  2,
  [3, "four,]"],
]
inline = { x = 1, y.z = [true, false], "w" = { v = 'q' } }
text = """
line with "quotes" and \""" escaped = 1
[not.a.table]
""""
literal = QQQ
[also.not]
it's = "x"
QQQ
when = 1979-05-27 07:32:00Z
[table]
key = "v"
[table.sub . "dotted.name"]
key = 1_000
[[array]]
x = 1
[[array.inner]]
y = 2
[[array.inner]]
y = 3
[[array]]
x = 4
[array.deep]
z = -inf
'''.replace("QQQ", "'" * 3)


def paths(value: Any, base: KeyPath = ()) -> Iterator[KeyPath]:
    if base:
        yield base
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*base, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*base, index))


def test_every_key_and_element_of_a_document_is_found_and_nothing_else() -> None:
    assert set(Locator(EVERYTHING).lines) == set(paths(tomllib.loads(EVERYTHING)))


def test_lines_are_those_on_which_things_stand() -> None:
    text = "\n".join(
        (
            "a = 1",  # 1
            "[[rule]]",
            'name = "x"',
            "targets = [",
            '  "one",',  # 5
            "",
            "  # nothing",
            '  "two", "three"',
            "]",
            "[rule.limits]",  # 10
            "tunnels = 1",
            "[[rule]]",
            'text = """',
            "name = 3",
            '"""',  # 15
            "name = 4",
        )
    )
    locator = Locator(text)
    assert locator.line(("a",)) == 1
    assert locator.line(("rule", 0)) == 2
    assert locator.line(("rule", 0, "targets", 0)) == 5
    assert locator.line(("rule", 0, "targets", 2)) == 8
    assert locator.line(("rule", 0, "limits", "tunnels")) == 11
    assert locator.line(("rule", 1)) == 12
    assert locator.line(("rule", 1, "name")) == 16


def test_what_is_missing_is_placed_at_the_table_that_would_hold_it() -> None:
    locator = Locator("\n[a.b]\nc = 1\n")
    assert locator.line(("a", "b", "d", 0)) == 2
    assert locator.line(("nowhere",)) is None


def test_windows_line_ends_count_as_one_line() -> None:
    assert Locator("a = 1\r\n\r\nb = 2\r\n").line(("b",)) == 3


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("rule", 2, "targets", 0), "rule[2].targets[0]"),
        (("user", "a b", "x"), 'user."a b".x'),
        ((), ""),
    ],
)
def test_key_paths_are_written_as_people_write_them(path: KeyPath, text: str) -> None:
    assert format_key_path(path) == text


SCALARS = st.sampled_from(
    ["1", "-2.5e3", "true", '"a]b"', "'c}d'", '"""x\n#y"""', "1979-05-27", '"\\"#"', "'''\n[z]'''"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(", # c\n".join).map("[\n{}\n]".format),
    max_leaves=6,
)
KEYS = st.sampled_from(["a", "b-c", '"d.e"', "'f g'", "h.i", '"j" . k'])


@given(st.lists(st.tuples(KEYS, VALUES), max_size=6, unique_by=lambda pair: pair[0]), st.booleans())
def test_generated_documents_are_located_completely(
    pairs: list[tuple[str, str]], indented: bool
) -> None:
    body = "".join(f"{'  ' if indented else ''}{key} = {value}\n" for key, value in pairs)
    text = f"{body}[[t]]\n{body}[[t]]\n[t.u]\n{body}"
    assert set(Locator(text).lines) == set(paths(tomllib.loads(text)))
