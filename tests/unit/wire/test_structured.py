"""Tests of masque_relay.wire.structured."""

import pytest

from masque_relay.wire.errors import WireError
from masque_relay.wire.structured import (
    Date,
    Token,
    parse_boolean,
    parse_item,
    parse_list,
    serialize_string,
    serialize_token,
)


class TestBoolean:
    """RFC 9297 section 3.4: another type is as good as no field."""

    @pytest.mark.clause("RFC 9297", "3.4", "MUST", "ignore unknown parameters of Capsule-Protocol")
    @pytest.mark.parametrize("text", ["?1", "  ?1 ", "?1;a", '?1; a="b";c=2'])
    def test_true_whatever_its_parameters(self, text: str) -> None:
        assert parse_boolean(text) is True

    def test_false(self) -> None:
        assert parse_boolean("?0") is False

    @pytest.mark.parametrize("text", ["", "1", "true", '"?1"', "?2", "?1, ?1", "? 1", "?1;", "?11"])
    def test_another_type_or_a_broken_field_is_nothing(self, text: str) -> None:
        assert parse_boolean(text) is None


class TestItems:
    """RFC 9651 section 4.2.3."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("42", 42),
            ("-7", -7),
            ("999999999999999", 999_999_999_999_999),
            ("4.5", 4.5),
            ("-0.125", -0.125),
            ('"a \\"quoted\\" \\\\ one"', 'a "quoted" \\ one'),
            ('""', ""),
            ("foo123/456:x", Token("foo123/456:x")),
            ("*t", Token("*t")),
            (":aGVsbG8=:", b"hello"),
            ("::", b""),
            ("@1659578233", Date(1_659_578_233)),
            ("@-1", Date(-1)),
            ('%"b%c3%bccher"', "bücher"),
        ],
    )
    def test_every_bare_type_is_read(self, text: str, value: object) -> None:
        found = parse_item(text).value
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1234567890123456",
            "1.",
            "1.2345",
            "1234567890123.1",
            "1.2.3",
            "--1",
            '"open',
            '"a\\b"',
            '"tab\t"',
            '"é"',
            ":a:",
            ":a b:",
            ":open",
            "@x",
            "@1.5",
            '%"%FF"',
            '%"%ff"',
            '%"%c3"',
            "a b",
            "a;",
            "a;A",
            "a;b=",
            "(a b)",
            "é",
        ],
    )
    def test_what_breaks_the_grammar_is_refused(self, text: str) -> None:
        with pytest.raises(WireError, match="structured field"):
            parse_item(text)

    def test_parameters_keep_their_last_value_and_a_key_alone_is_true(self) -> None:
        parameters = parse_item("a;b;c=?0;  d=x;b=2").parameters
        assert parameters == {"b": 2, "c": False, "d": "x"}


class TestLists:
    """RFC 9651 section 4.2.1."""

    def test_items_are_separated_by_commas(self) -> None:
        items = parse_list('  a;x=1 ,\t"b" ,c ')
        assert [item.value for item in items] == ["a", "b", "c"]
        assert items[0].parameters == {"x": 1}

    def test_nothing_is_an_empty_list(self) -> None:
        assert parse_list("  ") == ()

    @pytest.mark.parametrize("text", [",", "a,", "a, ", "a,,b", "a b", "(a b), c", ",a"])
    def test_broken_lists_are_refused(self, text: str) -> None:
        with pytest.raises(WireError):
            parse_list(text)


class TestSerialization:
    """RFC 9651 section 4.1."""

    def test_a_string_is_quoted_and_escaped(self) -> None:
        assert serialize_string('a "b" \\') == '"a \\"b\\" \\\\"'

    @pytest.mark.parametrize("text", ["\n", "é", "\x7f", "\x00"])
    def test_a_string_that_cannot_be_written_is_a_bug_of_the_caller(self, text: str) -> None:
        with pytest.raises(ValueError, match="printable ASCII"):
            serialize_string(text)

    def test_a_token_is_written_as_it_is(self) -> None:
        assert serialize_token("dns_error") == "dns_error"

    @pytest.mark.parametrize("text", ["", "a b", "1a", "a,b", "é"])
    def test_what_is_no_token_is_a_bug_of_the_caller(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a token"):
            serialize_token(text)
