"""The compiled policy, the explanation and a naive reading of the rules always agree.

The naive reading below knows nothing of masks or look-ups: it goes through the rules in order and
uses ipaddress alone. Names alone must never be refused what some address would be allowed.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from masque_relay.contract.request import Method
from masque_relay.control.policy import CompiledPolicy, parse_policy
from masque_relay.control.policy.addresses import protected_kind
from masque_relay.control.policy.explain import explain
from masque_relay.control.policy.rules import Outcome, Query

NOW_S = 1_700_000_000.0
NAMES = ["a.example", "b.a.example", "c.b.a.example", "example", "localhost"]
ADDRESSES = [
    "1.1.1.1", "8.8.8.8", "8.8.9.9", "10.0.0.1", "10.1.2.3", "127.0.0.1", "169.254.169.254",
    "2606:4700::1", "2606:4701::1", "fd00::1", "::1", "64:ff9b::808:808", "64:ff9b::a00:1",
    "2002:a00:1::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8",
]  # fmt: skip
HOSTS = [
    "*", "a.example", "*.a.example", "*.example", "localhost", "8.8.8.0/24", "8.8.8.8",
    "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "127.0.0.0/8", "169.254.169.254", "[::/0]",
    "[2606:4700::/32]", "[fd00::/8]", "[64:ff9b::/96]", "[64:ff9b::a00:0/104]", "[2002:a00::/24]",
]  # fmt: skip
PORTS = ["*", "1-1023", "53,443", "53", "443"]
SUBJECTS = ["alice", "bob@example.org", "carol"]
WHO = ["alice", "*@example.org", "*", "group:staff", "group:ops"]
METHODS = ["connect-udp", "bind-udp", "*"]
TIMES = ["", 'times = { days = ["tue"] }', 'times = { days = ["wed-mon"], utc = ["00:00-01:00"] }']
SOURCES = ["", 'sources = ["203.0.113.0/24"]', 'sources = ["192.0.2.0/24"]']
GROUPS = """
[group.staff]
subjects = ["carol"]
groups = ["ops"]
[group.ops]
claims = ["wg-ops"]
"""


def mostly(usual: object, other: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Return a strategy in which conditions are rare, so that several rules match one query."""
    return st.integers(0, 3).flatmap(lambda roll: other if roll == 3 else st.just(usual))


targets = st.one_of(
    st.just("*"),
    st.builds("{}:{}".format, st.sampled_from(HOSTS), mostly("*", st.sampled_from(PORTS))),
    st.builds("{}:{}".format, st.sampled_from(HOSTS), mostly("*", st.sampled_from(PORTS))),
    st.builds("{}:{}".format, st.sampled_from(HOSTS), mostly("*", st.sampled_from(PORTS))),
)
rules = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["allow", "deny"]),
        "who": mostly(["*"], st.lists(st.sampled_from(WHO), min_size=1, max_size=2)),
        "methods": mostly(["*"], st.lists(st.sampled_from(METHODS), min_size=1, max_size=2)),
        "targets": st.lists(targets, min_size=1, max_size=3),
        "times": mostly("", st.sampled_from(TIMES)),
        "sources": mostly("", st.sampled_from(SOURCES)),
    }
)
policies = st.lists(rules, min_size=1, max_size=5)
queries = st.builds(
    Query,
    subject=st.sampled_from(SUBJECTS),
    groups=st.sampled_from([(), ("wg-ops",), ("other",)]),
    method=st.sampled_from([Method.CONNECT_UDP, Method.BIND_UDP]),
    name=st.one_of(st.none(), st.sampled_from(NAMES)),
    address=st.sampled_from(ADDRESSES).map(ip_address),
    port=st.sampled_from([53, 443, 5000]),
    source=st.sampled_from([None, ip_address("203.0.113.7"), ip_address("198.51.100.1")]),
    now_s=st.just(NOW_S),
)


def compile_rules(specs: list[dict[str, object]]) -> CompiledPolicy:
    text = GROUPS
    for spec, number in zip(specs, count(), strict=False):
        lists = "".join(f"{key} = {spec[key]!r}\n" for key in ("who", "methods", "targets"))
        text += (
            f'[[rule]]\nname = "r{number}"\naction = "{spec["action"]}"\n{lists}'
            f"{spec['times']}\n{spec['sources']}\n"
        )
    return parse_policy(text)


def bare(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def inner_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    if address in ip_network("64:ff9b::/96"):
        return IPv4Address(address.packed[-4:])
    if address in ip_network("2002::/16"):
        return IPv4Address(address.packed[2:6])
    return None


LIFTING = {
    "10.0.0.0/8", "10.1.0.0/16", "127.0.0.0/8", "169.254.169.254", "[fd00::/8]",
    "[64:ff9b::a00:0/104]", "[2002:a00::/24]",
}  # fmt: skip


def port_matches(ports: str, port: int) -> bool:
    if ports == "*":
        return True
    for part in ports.split(","):
        first, _, last = part.partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False


def target_matches(text: str, query: Query, *, allow: bool) -> bool:
    host, ports = ("*", "*") if text == "*" else text.rsplit(":", 1)
    if not port_matches(ports, query.port or 0):
        return False
    assert query.address is not None
    address = bare(query.address)
    if host == "*":
        hit = True
    elif host.startswith("*."):
        hit = query.name is not None and query.name.endswith(host[1:])
    elif host[0] in "[0123456789":
        network = ip_network(host.strip("[]"))
        inner = inner_ipv4(address)
        hit = address in network or (not allow and inner is not None and inner in network)
    else:
        hit = host == query.name
    if allow and hit and protected_kind(address) is not None:
        return host in LIFTING
    return hit


def who_matches(entry: str, query: Query) -> bool:
    match entry:
        case "*":
            return True
        case "*@example.org":
            return query.subject.endswith("@example.org")
        case "group:staff":
            return query.subject == "carol" or "wg-ops" in query.groups
        case "group:ops":
            return "wg-ops" in query.groups
        case _:
            return entry == query.subject


def source_matches(spec: dict[str, object], query: Query) -> bool:
    if not spec["sources"]:
        return True
    if query.source is None:
        return spec["action"] == "deny"
    return ("203.0.113" in str(spec["sources"])) and str(query.source).startswith("203.0.113.")


def naive(specs: list[dict[str, object]], query: Query) -> tuple[bool, int | None]:
    """Return whether the query is allowed and the number of the rule that says so."""
    for number, spec in enumerate(specs):
        allow = spec["action"] == "allow"
        if (
            any(who_matches(entry, query) for entry in list_of(spec["who"]))
            and any(entry in {"*", query.method.value} for entry in list_of(spec["methods"]))
            and spec["times"] != TIMES[2]  # the moment is a Tuesday at 22:13
            and source_matches(spec, query)
            and any(target_matches(text, query, allow=allow) for text in list_of(spec["targets"]))
        ):
            return allow, number
    return False, None


def list_of(value: object) -> list[str]:
    assert isinstance(value, list)
    return value


@settings(max_examples=400)
@given(policies, queries)
def test_with_full_knowledge_the_compiled_policy_equals_a_naive_reading(
    specs: list[dict[str, object]], query: Query
) -> None:
    decision = compile_rules(specs).decide(query)
    allowed, number = naive(specs, query)
    assert (decision.outcome is Outcome.ALLOW) == allowed
    if allowed:
        assert decision.rule is not None
        assert decision.rule.name == f"r{number}"


@settings(max_examples=400)
@given(policies, queries, st.sampled_from(["address", "name", "none"]))
def test_the_explanation_always_gives_the_same_decision(
    specs: list[dict[str, object]], query: Query, knowledge: str
) -> None:
    policy = compile_rules(specs)
    asked = partial(query, knowledge)
    assert explain(policy, asked).decision == policy.decide(asked)


@settings(max_examples=400)
@given(policies, queries, st.sampled_from(["name", "none"]))
def test_what_is_refused_without_an_address_is_refused_with_every_address(
    specs: list[dict[str, object]], query: Query, knowledge: str
) -> None:
    policy = compile_rules(specs)
    asked = partial(query, knowledge)
    if policy.decide(asked).outcome is not Outcome.DENY:
        return
    for text in ADDRESSES:
        full = with_address(asked, text, query.port)
        assert policy.decide(full).outcome is Outcome.DENY, (text, specs)


@settings(max_examples=400)
@given(policies, queries)
def test_what_is_allowed_by_name_is_allowed_by_that_rule_at_every_public_address(
    specs: list[dict[str, object]], query: Query
) -> None:
    policy = compile_rules(specs)
    asked = partial(query, "name")
    by_name = policy.decide(asked)
    if by_name.outcome is not Outcome.ALLOW:
        return
    for text in ADDRESSES:
        if protected_kind(ip_address(text)) is None:
            assert policy.decide(with_address(asked, text, query.port)) == by_name


def partial(query: Query, knowledge: str) -> Query:
    """Return the query as it is asked when that much is known."""
    known = {
        "address": {"name": query.name, "address": query.address, "port": query.port},
        "name": {"name": query.name or "a.example", "address": None, "port": query.port},
        "none": {"name": None, "address": None, "port": None},
    }[knowledge]
    return Query(
        subject=query.subject,
        groups=query.groups,
        method=query.method,
        source=query.source,
        now_s=query.now_s,
        **known,  # type: ignore[arg-type]  # fields by name
    )


def with_address(query: Query, address: str, port: int | None) -> Query:
    return Query(
        subject=query.subject,
        groups=query.groups,
        method=query.method,
        name=query.name,
        address=ip_address(address),
        port=port,
        source=query.source,
        now_s=query.now_s,
    )
