"""Every mistake in a policy file is named, all at once, with file, line and key path."""

import textwrap

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.contract.request import Method
from masque_relay.control.policy import parse_policy
from masque_relay.control.policy.document import DocumentReader, PolicyDocument, parse_query_target
from masque_relay.control.policy.rules import PatternError
from masque_relay.control.toml_table import TomlSource

GOOD = textwrap.dedent(
    """\
    [limits]
    idle_timeout_s = 200
    rate_bytes_per_s = 1_000_000

    [group.staff]
    subjects = ["alice", "*@example.org"]
    groups = ["ops"]

    [group.ops]
    claims = ["wg-ops"]

    [[rule]]
    name = "dns"
    action = "allow"
    who = ["group:staff", "bob"]
    methods = ["connect-udp", "bind-udp"]
    targets = ["192.0.2.0/24:53"]
    sources = ["198.51.100.0/24"]

    [rule.times]
    days = ["mon-fri", "sun"]
    utc = ["08:00-18:00"]
    from = 2026-01-01T00:00:00Z
    until = 2027-01-01T00:00:00Z

    [rule.limits]
    rate_datagrams_per_s = 100
    burst_datagrams = 50
    lifetime_s = 3600
    max_bytes = 10
    tunnels = 5
    tunnels_per_subject = 2
    bytes_per_subject_per_day = 1000
    """
)


def read(text: str) -> PolicyDocument:
    return DocumentReader(TomlSource(text, file="p.toml")).read()


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, file="p.toml")
    return [str(problem) for problem in caught.value.problems]


def test_a_whole_document_is_read() -> None:
    document = read(GOOD)
    (rule,) = document.rules
    assert rule.allow
    assert rule.methods == {Method.CONNECT_UDP, Method.BIND_UDP}
    assert rule.line == 12
    assert rule.times is not None
    assert len(rule.times.week_ranges) == 6
    assert document.groups["staff"].groups == ("ops",)
    assert document.warnings == ()


def test_a_rule_takes_over_the_limits_it_does_not_set() -> None:
    limits = read(GOOD).rules[0].limits
    assert limits.tunnel.idle_timeout_s == 200
    assert limits.tunnel.rate_bytes_per_s == 1_000_000
    assert limits.tunnel.rate_datagrams_per_s == 100
    assert limits.tunnel.max_bytes == 10
    assert (limits.tunnels, limits.tunnels_per_subject) == (5, 2)
    assert limits.bytes_per_subject_per_day == 1000


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"dns"', '"a b"', "p.toml:13: rule[0].name: 'a b' is no name"),
        ('name = "dns"\n', "", "p.toml:12: rule[0]: name is missing"),
        ('"allow"', '"alow"', "p.toml:14: rule[0].action: 'alow' is not one of allow, deny (did"),
        ("group:staff", "group:stafff", "p.toml:15: rule[0].who[0]: there is no group 'stafff'"),
        ("bind-udp", "bind-upd", "p.toml:16: rule[0].methods[1]: unknown method 'bind-upd' (did"),
        ("/24:53", "/24", "p.toml:17: rule[0].targets[0]: no port"),
        ('["192.0.2.0/24:53"]', "[]", "p.toml:17: rule[0].targets: must not be an empty list"),
        ('["192.0.2.0/24:53"]', '"x"', "rule[0].targets: must be a list of strings, not a string"),
        ("198.51.100.0/24", "nowhere", "p.toml:18: rule[0].sources[0]: 'nowhere' is not an addr"),
        ("mon-fri", "mon-fry", "p.toml:21: rule[0].times.days[0]: 'mon-fry' is not a day"),
        ("08:00-18:00", "8-18", "p.toml:22: rule[0].times.utc[0]: '8-18' is not a range of UTC"),
        ("08:00-18:00", "08:00-08:00", "p.toml:22: rule[0].times.utc[0]"),
        ("08:00-18:00", "25:00-26:00", "p.toml:22: rule[0].times.utc[0]"),
        ("2026-01-01T00:00:00Z", "2026-01-01", "p.toml:23: rule[0].times.from: must be a date-ti"),
        ("2027-01-01", "2025-01-01", "p.toml:24: rule[0].times.until: until is not after from"),
        ("tunnels = 5", "tunnles = 5", "p.toml:31: rule[0].limits.tunnles: unknown key (did you"),
        ("tunnels = 5", "tunnels = 0", "p.toml:31: rule[0].limits.tunnels: must be a whole number"),
        ("tunnels = 5", "tunnels = true", "rule[0].limits.tunnels: must be a whole number of at"),
        ("lifetime_s = 3600", "lifetime_s = nan", "p.toml:29: rule[0].limits.lifetime_s: must be"),
        ("rate_datagrams_per_s = 100\n", "", "rule[0].limits.burst_datagrams: a burst without"),
        ('groups = ["ops"]', 'groups = ["staff"]', "p.toml:7: group.staff.groups: the group cont"),
        ('claims = ["wg-ops"]', 'groups = ["staff"]', "group.staff.groups: the group contains it"),
        (
            'claims = ["wg-ops"]',
            "",
            "p.toml:9: group.ops: a group needs subjects, groups or claims",
        ),
        ("[limits]", "[limit]", "p.toml:1: limit: unknown key (did you mean 'limits'?)"),
        ("[[rule]]", "[rule]", "p.toml:12: rule: must be written as [[rule]], not a table"),
        ("idle_timeout_s = 200", "idle_timeout_s = ", "p.toml:2: not TOML: Invalid value"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key_path(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new))
    assert any(expected in text for text in found), found


def test_all_mistakes_are_reported_at_once_in_line_order() -> None:
    text = GOOD.replace("mon-fri", "x").replace('"dns"', "3").replace('"alice"', "[]")
    assert [line.split(": ")[0] for line in problems(text)] == [
        "p.toml:6",
        "p.toml:13",
        "p.toml:21",
    ]


def test_the_value_of_a_wrong_key_is_not_shown() -> None:
    (text,) = problems(GOOD.replace('"dns"', "31337"))
    assert "31337" not in text


def test_two_rules_of_one_name_are_refused() -> None:
    rule = GOOD[GOOD.index("[[rule]]") :]
    assert any("there is a rule 'dns' already" in text for text in problems(GOOD + rule))


def test_a_deny_rule_has_no_limits() -> None:
    assert any(
        "a deny rule has no limits" in text for text in problems(GOOD.replace("allow", "deny"))
    )


def test_peers_go_with_the_mesh_method_only() -> None:
    text = GOOD.replace("[rule.times]", 'peers = ["*"]\n[rule.times]')
    assert any("peers go with methods" in line for line in problems(text))


def test_a_range_that_only_overlaps_protected_addresses_is_worth_a_warning() -> None:
    document = read(GOOD.replace("192.0.2.0/24:53", "0.0.0.0/0:53"))
    assert "does not reach the protected addresses" in document.warnings[0]


def test_a_policy_without_rules_is_worth_a_warning() -> None:
    assert "everything is denied" in read("").warnings[0]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ('method = "connect-udp"\nexpect = "deny"', "test[0]: as is missing"),
        ('as = "a"\nmethod = "x"\nexpect = "deny"', "test[0].method: 'x' is not one of"),
        ('as = "a"\nmethod = "connect-udp"\nexpect = "yes"', "test[0].expect: 'yes' is not one"),
        (
            'as = "a"\nmethod = "connect-udp"\nexpect = "deny"\nrule = "dsn"',
            "test[0].rule: there is no rule 'dsn' (did you mean 'dns'?)",
        ),
        (
            'as = "a"\nmethod = "connect-udp"\nexpect = "deny"\ntarget = "[::1]"',
            "test[0].target: ",
        ),
        (
            'as = "a"\nmethod = "connect-udp"\nexpect = "deny"\n'
            'target = "1.1.1.1:1"\naddress = "1.1.1.1"',
            "test[0].address: an address goes with a target that is a name",
        ),
    ],
)
def test_a_mistake_in_a_test_is_named_too(extra: str, expected: str) -> None:
    found = problems(f"{GOOD}[[test]]\n{extra}\n")
    assert any(expected in text for text in found), found


@pytest.mark.parametrize(
    "text",
    ["example.org", "example.org:0", "example.org:70000", "::1:53", "[::1:53", "*.x:1", "1.2.3:4"],
)
def test_what_is_no_single_target_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        parse_query_target(text)


def test_a_mapped_target_is_read_as_ipv4() -> None:
    name, address, port = parse_query_target("[::ffff:192.0.2.1]:53")
    assert (name, str(address), port) == (None, "192.0.2.1", 53)
