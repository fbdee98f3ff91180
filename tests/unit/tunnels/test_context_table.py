"""The contexts of a bound UDP tunnel, both ends of it (connect-udp-listen sections 3 and 4)."""

from ipaddress import ip_address

import pytest

from masque_relay.tunnels.context_table import BindContext, ContextLimits, ContextTable, UsedIds
from masque_relay.wire.connect_udp_bind import (
    BindCapsule,
    encode_assign,
    encode_context_id,
    encode_peer,
)
from masque_relay.wire.errors import WireError

ASSIGN, ACK, CLOSE = BindCapsule
ONE, TWO, THREE = (encode_peer(ip_address(f"192.0.2.{n}"), 53) for n in (1, 2, 3))


class End:
    """One end, and what it sent."""

    def __init__(
        self,
        *,
        is_proxy: bool,
        limits: ContextLimits | None = None,
        refused: frozenset[bytes] = frozenset(),
    ) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.table = ContextTable(
            is_proxy=is_proxy,
            limits=limits or ContextLimits(),
            send=lambda kind, value: self.sent.append((kind, value)),
            accepts=lambda peer: peer not in refused,
        )

    def assigned(self, context_id: int, peer: bytes | None) -> tuple[int, bytes]:
        """Play the other end's ASSIGN; return what was answered last."""
        self.table.on_capsule(ASSIGN, encode_assign(context_id, peer))
        return self.sent[-1]


def proxy(limits: ContextLimits | None = None, refused: frozenset[bytes] = frozenset()) -> End:
    return End(is_proxy=True, limits=limits, refused=refused)


class TestRegistration:
    @pytest.mark.clause(
        "connect-udp-listen-15", "3.1", "MUST", "save and acknowledge what it takes"
    )
    def test_accepted_context_is_acknowledged_and_kept(self) -> None:
        end = proxy()
        assert end.assigned(2, None) == (ACK, b"\x02")
        assert end.assigned(4, ONE) == (ACK, b"\x04")
        assert end.table.uncompressed is end.table.by_id[2]
        assert end.table.by_peer[ONE].context_id == 4
        assert end.table.by_peer[ONE].usable

    @pytest.mark.clause("connect-udp-listen-15", "3.1", "MUST", "answer CLOSE to what it rejects")
    def test_refused_peer_is_answered_with_close(self) -> None:
        end = proxy(refused=frozenset({ONE}))
        assert end.assigned(2, ONE) == (CLOSE, b"\x02")
        assert end.table.by_id == {}
        assert (end.table.accepted_count, end.table.rejected_count) == (0, 1)

    @pytest.mark.clause("connect-udp-listen-15", "9", "MUST", "limit the contexts open at once")
    def test_contexts_beyond_the_limit_are_rejected(self) -> None:
        end = proxy(ContextLimits(theirs=2))
        assert end.assigned(2, ONE)[0] == end.assigned(4, TWO)[0] == ACK
        assert end.assigned(6, THREE) == (CLOSE, b"\x06")
        assert end.assigned(8, None) == (ACK, b"\x08")
        end.table.on_capsule(CLOSE, b"\x02")
        end.table.on_capsule(CLOSE, b"\x08")
        assert end.assigned(10, THREE) == (ACK, b"\x0a")

    @pytest.mark.clause(
        "connect-udp-listen-15", "3.1", "MUST", "a repeated context ID is malformed"
    )
    @pytest.mark.parametrize("closed", [False, True])
    def test_context_id_is_never_used_twice(self, closed: bool) -> None:
        end = proxy()
        end.assigned(2, ONE)
        if closed:
            end.table.on_capsule(CLOSE, b"\x02")
        with pytest.raises(WireError, match="used again"):
            end.assigned(2, TWO)

    def test_rejected_context_id_is_used_up_too(self) -> None:
        end = proxy(refused=frozenset({ONE}))
        end.assigned(2, ONE)
        with pytest.raises(WireError, match="used again"):
            end.assigned(2, TWO)

    @pytest.mark.clause("RFC 9298", "4", "MUST", "let clients allocate even context IDs only")
    def test_parity_of_the_other_end_is_enforced(self) -> None:
        with pytest.raises(WireError, match="not the peer's"):
            proxy().assigned(3, ONE)
        with pytest.raises(WireError, match="not the peer's"):
            End(is_proxy=False).assigned(2, ONE)

    @pytest.mark.clause(
        "connect-udp-listen-15",
        "3.1",
        "MUST",
        "a second context of one end for a peer is malformed",
    )
    def test_second_context_for_one_peer_is_malformed(self) -> None:
        end = proxy()
        end.assigned(2, ONE)
        with pytest.raises(WireError, match="second context"):
            end.assigned(4, ONE)

    def test_peer_may_be_registered_again_after_its_context_was_closed(self) -> None:
        end = proxy()
        end.assigned(2, ONE)
        end.table.on_capsule(CLOSE, b"\x02")
        assert end.assigned(4, ONE) == (ACK, b"\x04")


class TestUncompressed:
    @pytest.mark.clause(
        "connect-udp-listen-15", "4", "MUST", "a second uncompressed context is malformed"
    )
    def test_only_one_at_a_time(self) -> None:
        end = proxy()
        end.assigned(2, None)
        with pytest.raises(WireError, match="second uncompressed"):
            end.assigned(4, None)

    def test_it_may_come_back_under_another_id(self) -> None:
        end = proxy()
        end.assigned(2, None)
        end.table.on_capsule(CLOSE, b"\x02")
        assert end.table.uncompressed is None
        assert end.assigned(4, None) == (ACK, b"\x04")

    @pytest.mark.clause("connect-udp-listen-15", "4", "MUST", "only the client opens it")
    def test_a_proxy_opens_none_and_a_client_takes_none(self) -> None:
        assert proxy().table.assign(None) is None
        with pytest.raises(WireError, match="opened an uncompressed"):
            End(is_proxy=False).assigned(1, None)

    @pytest.mark.clause("connect-udp-listen-15", "4", "MUST NOT", "open it while it is open")
    def test_a_client_opens_it_once(self) -> None:
        end = End(is_proxy=False)
        assert end.table.assign(None) is not None
        assert end.table.assign(None) is None
        assert end.sent == [(ASSIGN, b"\x02\x00")]


class TestOurs:
    @pytest.mark.clause(
        "connect-udp-listen-15", "3.1", "MUST NOT", "let a proxy open contexts without uncompressed"
    )
    def test_a_proxy_registers_only_while_the_uncompressed_context_is_open(self) -> None:
        end = proxy()
        assert end.table.assign(ONE) is None
        end.assigned(2, None)
        assert end.table.assign(ONE) is not None
        end.table.on_capsule(CLOSE, b"\x02")
        assert end.table.assign(TWO) is None
        assert ONE in end.table.by_peer

    @pytest.mark.clause("connect-udp-listen-15", "3.1", "MUST NOT", "assign one context ID twice")
    def test_ids_are_odd_for_proxies_and_even_for_clients(self) -> None:
        end = proxy()
        end.assigned(2, None)
        ids = [context.context_id for peer in (ONE, TWO) if (context := end.table.assign(peer))]
        assert ids == [1, 3]
        client = End(is_proxy=False)
        ids = [c.context_id for peer in (ONE, TWO) if (c := client.table.assign(peer))]
        assert ids == [2, 4]

    def test_a_context_is_usable_once_it_is_acknowledged(self) -> None:
        end = End(is_proxy=False)
        context = end.table.assign(ONE)
        assert isinstance(context, BindContext)
        assert not context.usable
        end.table.on_capsule(ACK, b"\x02")
        end.table.on_capsule(ACK, b"\x02")
        assert context.usable

    @pytest.mark.clause(
        "connect-udp-listen-15", "3.2", "MUST", "ACK of what was not asked is malformed"
    )
    @pytest.mark.parametrize("context_id", [0, 1, 3, 4, 100])
    def test_acknowledgement_of_what_we_never_assigned_is_malformed(self, context_id: int) -> None:
        end = End(is_proxy=False)
        end.table.assign(ONE)
        with pytest.raises(WireError, match="never assigned"):
            end.table.on_capsule(ACK, encode_context_id(context_id))

    def test_acknowledgement_that_crosses_our_close_is_no_error(self) -> None:
        end = End(is_proxy=False)
        context = end.table.assign(ONE)
        assert context is not None
        end.table.close(context)
        end.table.on_capsule(ACK, b"\x02")
        assert end.table.by_id == {}

    @pytest.mark.clause("connect-udp-listen-15", "3.1", "MUST NOT", "register a peer twice")
    def test_one_context_per_peer_and_a_limit(self) -> None:
        end = End(is_proxy=False, limits=ContextLimits(ours=1))
        assert end.table.assign(ONE) is not None
        assert end.table.assign(ONE) is None
        assert end.table.assign(TWO) is None
        end.table.on_capsule(CLOSE, b"\x02")
        assert end.table.assign(TWO) is not None


class TestBothAtOnce:
    @pytest.mark.clause(
        "connect-udp-listen-15", "3.1", "MUST", "close the proxy's context when both opened one"
    )
    def test_the_proxy_gives_way(self) -> None:
        end = proxy()
        end.assigned(2, None)
        end.table.assign(ONE)
        end.assigned(4, ONE)
        assert end.sent[-2:] == [(CLOSE, b"\x01"), (ACK, b"\x04")]
        assert end.table.by_peer[ONE].context_id == 4
        assert set(end.table.by_id) == {2, 4}
        end.table.on_capsule(CLOSE, b"\x01")
        end.table.on_capsule(ACK, b"\x01")

    def test_the_client_keeps_its_own(self) -> None:
        end = End(is_proxy=False)
        end.table.assign(ONE)
        assert end.assigned(1, ONE) == (CLOSE, b"\x01")
        assert end.table.by_peer[ONE].context_id == 2


class TestClosing:
    def test_either_end_closes_any_context(self) -> None:
        end = proxy()
        end.assigned(2, ONE)
        end.table.close(end.table.by_id[2])
        assert end.sent[-1] == (CLOSE, b"\x02")

    def test_closing_twice_is_said_once_and_heard_twice(self) -> None:
        end = proxy()
        end.assigned(2, ONE)
        context = end.table.by_id[2]
        end.table.close(context)
        end.table.close(context)
        end.table.on_capsule(CLOSE, b"\x02")
        end.table.on_capsule(CLOSE, b"\x02")
        assert end.sent == [(ACK, b"\x02"), (CLOSE, b"\x02")]

    def test_close_of_what_never_was_changes_nothing(self) -> None:
        end = proxy()
        end.assigned(2, ONE)
        end.table.on_capsule(CLOSE, b"\x3c")
        assert set(end.table.by_id) == {2}

    def test_unknown_capsule_is_skipped(self) -> None:
        proxy().table.on_capsule(0x99, b"whatever")


class TestUsedIds:
    def test_ids_in_order_cost_nothing(self) -> None:
        used = UsedIds(2, max_scattered=1)
        for context_id in range(2, 20_000, 2):
            used.take(context_id)
        with pytest.raises(WireError):
            used.take(19_998)

    def test_ids_out_of_order_are_kept_up_to_a_limit(self) -> None:
        used = UsedIds(2, max_scattered=2)
        used.take(6)
        used.take(8)
        used.take(2)
        used.take(4)
        used.take(100)
        used.take(200)
        with pytest.raises(WireError, match="out of order"):
            used.take(300)
