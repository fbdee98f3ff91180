"""Owns the tests of the demo's DNS bytes, against a foreign implementation."""

from dnslib import QTYPE, DNSRecord

from masque_relay.client.demo_targets import (
    DEMO_ADDRESS,
    DEMO_NAME,
    answered_address,
    dns_answer,
    dns_query,
)


def test_the_query_is_read_by_a_dns_library() -> None:
    record = DNSRecord.parse(dns_query(DEMO_NAME, 0x1234))
    assert record.header.id == 0x1234
    assert str(record.q.qname) == f"{DEMO_NAME}."
    assert record.q.qtype == QTYPE.A


def test_the_answer_is_read_by_a_dns_library() -> None:
    answer = dns_answer(DNSRecord.question("some.name").pack(), DEMO_ADDRESS)
    assert answer is not None
    record = DNSRecord.parse(answer)
    assert str(record.a.rdata) == str(DEMO_ADDRESS)
    assert str(record.a.rname) == "some.name."


def test_only_the_answer_to_our_query_is_believed() -> None:
    query = dns_query(DEMO_NAME, 1)
    answer = dns_answer(query, DEMO_ADDRESS)
    assert answer is not None
    assert answered_address(query, answer) == DEMO_ADDRESS
    assert answered_address(dns_query(DEMO_NAME, 2), answer) is None
    assert answered_address(query, answer[:-1]) is None
    assert answered_address(query, b"") is None


def test_what_is_no_query_is_not_answered() -> None:
    answer = dns_answer(dns_query(DEMO_NAME, 1), DEMO_ADDRESS)
    assert answer is not None
    for data in (b"", b"short", answer, dns_query(DEMO_NAME, 1)[:5] + b"\2" + bytes(20)):
        assert dns_answer(data, DEMO_ADDRESS) is None
