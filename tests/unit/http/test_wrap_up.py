"""Who is sent WRAP_UP."""

import pytest

from masque_relay.http.wrap_up import WrapUpRule


@pytest.mark.parametrize(
    ("subjects", "subject", "expected"),
    [
        ((), "alice", False),
        (("alice",), "alice", True),
        (("alice",), "alice2", False),
        (("alice", "bob"), "bob", True),
        (("phone-*",), "phone-7", True),
        (("*",), "anybody\nat all", True),
        (("a.c",), "abc", False),
    ],
)
def test_only_those_who_are_named(subjects: tuple[str, ...], subject: str, expected: bool) -> None:
    assert WrapUpRule(subjects).names(subject, []) is expected


@pytest.mark.parametrize(
    ("agent", "expected"), [(b"curl/8.23.0", False), (b"CURL/9", False), (b"ghostctl/1", True)]
)
def test_never_curl(agent: bytes, expected: bool) -> None:
    assert WrapUpRule(["*"]).names("alice", [(b"user-agent", agent)]) is expected
