"""The conformance page tells what the marks tell, and the marks are well formed."""

from tests.conformance.__main__ import TITLES, page
from tests.conformance.clauses import (
    DEVIATION,
    LEVELS,
    ROOT,
    collect_clauses,
    collect_deviations,
    section_key,
)

CLAUSES = collect_clauses()


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs/reference/conformance.md").read_text(encoding="utf-8")
    assert written == page(CLAUSES), "python -m tests.conformance > docs/reference/conformance.md"


def test_marks_name_a_known_rfc_a_section_and_a_level() -> None:
    for clause in CLAUSES:
        assert clause.rfc in TITLES, clause
        assert clause.level in LEVELS, clause
        assert section_key(clause.section), clause
        assert "|" not in clause.requirement, clause


def test_one_requirement_has_one_level() -> None:
    levels: dict[tuple[str, str, str], str] = {}
    for clause in CLAUSES:
        key = (clause.rfc, clause.section, clause.requirement)
        assert levels.setdefault(key, clause.level) == clause.level, clause


def test_every_deviation_in_the_sources_has_its_test_and_the_other_way_round() -> None:
    declared = {(found.rfc, found.section) for found in collect_deviations()}
    shown = {(clause.rfc, clause.section) for clause in CLAUSES if clause.level == DEVIATION}
    assert declared
    assert shown == declared


def test_every_rfc_of_the_relay_has_clauses() -> None:
    assert {clause.rfc for clause in CLAUSES} >= {
        "RFC 8441", "RFC 9000", "RFC 9114", "RFC 9209", "RFC 9220", "RFC 9221", "RFC 9297",
        "RFC 9298", "RFC 9484", "RFC 9931", "connect-ip-dns-06", "connect-tcp-18",
        "connect-udp-listen-15", "proxy-config-14", "wrap-up",
    }  # fmt: skip
