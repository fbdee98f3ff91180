"""Owns the tests of the split rules: what they match, in which order, and how they are written."""

import pytest

from masque_relay.client.address import parse_target
from masque_relay.client.errors import AddressError
from masque_relay.client.split import SplitRule, SplitRules, Way, read_rules


@pytest.mark.parametrize(
    ("where", "target"),
    [
        ("*", "example.org:443"),
        ("*", "192.0.2.1:1"),
        ("example.org", "example.org:443"),
        ("example.org", "www.example.org:443"),
        ("Example.ORG", "a.b.example.org:1"),
        (".example.org", "www.example.org:443"),
        ("*.example.org", "www.example.org:443"),
        ("10.0.0.0/8", "10.1.2.3:22"),
        ("192.0.2.1", "192.0.2.1:22"),
        ("[2001:db8::]/32", "[2001:db8::7]:22"),
        ("[::1]:22", "[::1]:22"),
        ("example.org:443", "example.org:443"),
        ("10.0.0.0/8:8000-8999", "10.0.0.1:8999"),
        ("*:25", "mail.example:25"),
        (":25", "192.0.2.1:25"),
    ],
)
def test_a_rule_matches(where: str, target: str) -> None:
    assert SplitRule.parse(f"direct:{where}").matches(parse_target(target))


@pytest.mark.parametrize(
    ("where", "target"),
    [
        ("example.org", "badexample.org:443"),
        ("example.org", "example.org.evil.example:443"),
        ("example.org:443", "example.org:80"),
        ("10.0.0.0/8", "11.0.0.1:22"),
        ("10.0.0.0/8", "ten.example:22"),
        ("[2001:db8::]/32", "192.0.2.1:22"),
        ("0.0.0.0/0", "[2001:db8::7]:22"),
        ("*:8000-8999", "example.org:9000"),
        ("example.org", "192.0.2.1:443"),
    ],
)
def test_a_rule_does_not_match(where: str, target: str) -> None:
    assert not SplitRule.parse(f"direct:{where}").matches(parse_target(target))


@pytest.mark.parametrize(
    "text",
    [
        "", "direct", "direct:", "sideways:*", "direct:2001:db8::/32", "direct:10.0.0.1/8",
        "direct:a b", "direct:example.org:0", "direct:example.org:9-8", "direct:example.org:65536",
        "direct:example.org:", "direct:[::1", "direct:é.example", "direct:1.2.3:80",
    ],
)  # fmt: skip
def test_a_rule_that_means_nothing_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(AddressError) as refused:
        SplitRule.parse(text)
    assert refused.value.hint is not None


def test_the_first_rule_that_matches_decides_and_the_default_else() -> None:
    rules = SplitRules(
        [
            SplitRule.parse("proxy:public.corp.example"),
            SplitRule.parse("direct:corp.example"),
            SplitRule.parse("block:*:25"),
        ]
    )
    assert rules.way_of(parse_target("public.corp.example:25")) is Way.PROXY
    assert rules.way_of(parse_target("mail.corp.example:25")) is Way.DIRECT
    assert rules.way_of(parse_target("mail.example:25")) is Way.BLOCK
    assert rules.way_of(parse_target("mail.example:443")) is Way.PROXY
    assert SplitRules(default=Way.BLOCK).way_of(parse_target("a.example:1")) is Way.BLOCK


def test_a_file_has_one_rule_a_line_and_comments() -> None:
    text = "# ours\n\ndirect:corp.example  # and below\nblock:*:25\n"
    assert [rule.way for rule in read_rules(text, origin="f")] == [Way.DIRECT, Way.BLOCK]


def test_a_bad_line_of_a_file_is_named() -> None:
    with pytest.raises(AddressError, match=r"f:2: 'nonsense' is not a split rule"):
        read_rules("direct:*\nnonsense\n", origin="f")
