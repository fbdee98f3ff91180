"""The addresses of one CONNECT-IP tunnel (RFC 9484 sections 4.7.1 and 4.7.2)."""

from ipaddress import ip_address, ip_network

import pytest

from masque_relay.dataplane.ip_pool import NetworkPool
from masque_relay.tunnels.ip_addresses import (
    MAX_ADDRESS_REQUESTS,
    MAX_ADDRESSES,
    AddressBook,
    AddressMemory,
)
from masque_relay.wire.connect_ip import AddressEntry
from masque_relay.wire.errors import WireError
from tests.support.ip_rig import POOL4, POOL6, wants


def pool(*networks: str) -> NetworkPool:
    return NetworkPool(ip_network(text) for text in networks or (POOL4, POOL6))


def shown(entries: tuple[AddressEntry, ...]) -> list[tuple[int, str]]:
    return [(entry.request_id, str(entry.network)) for entry in entries]


class TestBegin:
    def test_one_address_of_each_family_unasked(self) -> None:
        book = AddressBook(pool(), (4, 6))
        book.begin({})
        assert shown(book.entries) == [(0, "10.71.0.2/32"), (0, "fd71::2/128")]
        assert book.ipv4 == {int(ip_address("10.71.0.2"))}
        assert book.ipv6 == {int(ip_address("fd71::2"))}

    def test_only_of_the_families_that_the_tunnel_is_for(self) -> None:
        book = AddressBook(pool(), (6,))
        book.begin({})
        assert shown(book.entries) == [(0, "fd71::2/128")]

    def test_the_address_of_last_time_where_it_is_free(self) -> None:
        last = ip_address("10.71.0.77")
        shared = pool()
        first, second = AddressBook(shared, (4,)), AddressBook(shared, (4,))
        first.begin({4: last})
        second.begin({4: last})
        assert first.addresses == (last,)
        assert second.addresses == (ip_address("10.71.0.2"),)


class TestRequests:
    @pytest.mark.clause("RFC 9484", "4.7.2", "MUST", "answer every request under its own ID")
    def test_every_request_is_answered(self) -> None:
        book = AddressBook(pool("10.71.0.0/30"), (4, 6))  # room for one tunnel, and no IPv6
        answer = book.answer([wants(4, 9), wants(4, 5), wants(6, 7)])
        assert shown(answer) == [(9, "10.71.0.2/32"), (5, "0.0.0.0/32"), (7, "::/128")]
        assert book.refused_count == 2

    @pytest.mark.clause(
        "RFC 9484", "4.7.2", "MUST", "a refusal is the all-zero address with the longest prefix"
    )
    def test_exhausted_pool_is_a_refusal(self) -> None:
        shared = pool("10.71.0.0/30")
        AddressBook(shared, (4,)).begin({})
        answer = AddressBook(shared, (4,)).answer([wants(4, 1)])
        assert shown(answer) == [(1, "0.0.0.0/32")]
        assert answer[0].is_refusal

    def test_refusals_are_in_one_answer_only(self) -> None:
        book = AddressBook(pool("10.71.0.0/30"), (4,))
        book.answer([wants(4, 1), wants(4, 2)])
        assert shown(book.answer([wants(4, 3)])) == [(1, "10.71.0.2/32"), (3, "0.0.0.0/32")]

    def test_the_first_request_gets_what_was_given_unasked(self) -> None:
        book = AddressBook(pool(), (4, 6))
        book.begin({})
        assert shown(book.answer([wants(6, 3)])) == [(0, "10.71.0.2/32"), (3, "fd71::2/128")]
        assert shown(book.answer([wants(6, 4)]))[-1] == (4, "fd71::3/128")

    def test_the_wanted_address_if_it_is_free(self) -> None:
        shared = pool()
        book, other = AddressBook(shared, (4,)), AddressBook(shared, (4,))
        book.begin({})
        other.begin({})
        assert shown(book.answer([wants(4, 1, "10.71.0.50")])) == [(1, "10.71.0.50/32")]
        assert book.ipv4 == {int(ip_address("10.71.0.50"))}
        assert shown(other.answer([wants(4, 1, "10.71.0.50")])) == [(1, "10.71.0.3/32")]
        assert shown(other.answer([wants(4, 2, "10.71.0.2")]))[-1] == (2, "10.71.0.2/32")

    @pytest.mark.parametrize("text", ["10.71.0.1", "10.71.0.0", "10.71.0.255", "192.0.2.1"])
    def test_an_address_that_is_not_ours_to_give_becomes_another_one(self, text: str) -> None:
        book = AddressBook(pool(), (4,))
        assert shown(book.answer([wants(4, 1, text)])) == [(1, "10.71.0.2/32")]

    def test_a_prefix_is_answered_with_one_address(self) -> None:
        book = AddressBook(pool(), (4,))
        request = AddressEntry(request_id=1, address=ip_address("10.71.0.0"), prefix_length=28)
        assert shown(book.answer([request])) == [(1, "10.71.0.2/32")]

    @pytest.mark.clause("RFC 9484", "4.7.2", "MUST NOT", "reuse request IDs")
    def test_request_id_of_an_earlier_capsule_is_refused(self) -> None:
        book = AddressBook(pool(), (4, 6))
        book.answer([wants(4, 1)])
        with pytest.raises(WireError, match="request ID 1 again"):
            book.answer([wants(6, 1)])

    def test_nobody_takes_the_whole_pool(self) -> None:
        book = AddressBook(pool(), (4, 6))
        answer = book.answer([wants(4, number) for number in range(1, 20)])
        assert len(book.addresses) == MAX_ADDRESSES
        assert sum(entry.is_refusal for entry in answer) == 19 - MAX_ADDRESSES

    def test_endless_requests_are_refused(self) -> None:
        book = AddressBook(pool(), (4,))
        for number in range(1, MAX_ADDRESS_REQUESTS + 1):
            book.answer([wants(4, number)])
        with pytest.raises(WireError, match="more than"):
            book.answer([wants(4, MAX_ADDRESS_REQUESTS + 1)])


def test_everything_goes_back_to_the_pool() -> None:
    shared = pool()
    book = AddressBook(shared, (4, 6))
    book.begin({})
    book.answer([wants(4, 1), wants(4, 2)])
    assert shared.assigned_count == 3
    book.release()
    book.release()
    assert shared.assigned_count == 0
    assert (book.addresses, book.ipv4, book.ipv6) == ((), set(), set())


class TestAdoption:
    def test_a_free_address_of_the_pool_is_adopted(self) -> None:
        book = AddressBook(pool(), (4, 6))
        assert book.adopt(4, int(ip_address("10.71.0.9")))
        assert book.adopt(6, int(ip_address("fd71::9")))
        assert [str(address) for address in book.addresses] == ["10.71.0.9", "fd71::9"]

    @pytest.mark.parametrize("text", ["10.71.0.1", "192.0.2.1", "fd72::1", "10.71.0.2"])
    def test_no_other_one_is(self, text: str) -> None:
        shared = pool()
        AddressBook(shared, (4,)).begin({})
        book = AddressBook(shared, (4, 6))
        address = ip_address(text)
        assert not book.adopt(address.version, int(address))
        assert shared.assigned_count == 1


class TestMemory:
    @pytest.mark.clause("RFC 9484", "11", "DEVIATION", "an identity gets its last addresses again")
    def test_an_identity_gets_back_what_it_had(self) -> None:
        memory = AddressMemory(2)
        memory.remember("a", [ip_address("10.71.0.5"), ip_address("fd71::5")])
        memory.remember("a", [ip_address("10.71.0.6"), ip_address("10.71.0.7")])
        assert memory.recall("a") == {4: ip_address("10.71.0.6")}
        assert memory.recall("b") == {}

    def test_the_oldest_is_forgotten(self) -> None:
        memory = AddressMemory(2)
        for name in ("a", "b", "a", "c"):
            memory.remember(name, [ip_address("10.71.0.5")])
        assert memory.recall("b") == {}
        assert memory.recall("a")

    def test_it_can_be_turned_off(self) -> None:
        memory = AddressMemory(0)
        memory.remember("a", [ip_address("10.71.0.5")])
        assert memory.recall("a") == {}
