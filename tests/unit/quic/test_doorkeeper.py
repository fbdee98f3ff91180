"""Packets of no known connection."""

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.admission import Admission
from masque_relay.quic.doorkeeper import Doorkeeper, Newcomer
from masque_relay.quic.limits import QuicLimits, RetryMode
from masque_relay.quic.packet import VERSION_1
from masque_relay.quic.retry import EndpointSecrets

SECRETS = EndpointSecrets(retry_keys=(bytes(range(32)),), reset_key=bytes(range(32, 64)))
SOURCE = ("192.0.2.7", 4433)


class Door:
    """A doorkeeper with its counters, at a standing clock."""

    def __init__(self, secrets: EndpointSecrets = SECRETS, **limits: object) -> None:
        self.counters = QuicCounters()
        settings = QuicLimits(**limits)  # type: ignore[arg-type]  # any field
        self.admission = Admission(settings, self.counters)
        self.keeper = Doorkeeper(self.admission, self.counters, settings, secrets)

    def meet(self, data: bytes, source: tuple[str, int] = SOURCE) -> Newcomer | bytes | None:
        return self.keeper.meet_long(data, source, now_s=1.0, wall_s=1_800_000_000.0)


def initial(
    *,
    version: int = VERSION_1,
    token: bytes = b"",
    destination_cid: bytes = b"original",
    size: int = 1200,
) -> bytes:
    head = b"".join(
        (
            b"\xc0",
            version.to_bytes(4, "big"),
            bytes((len(destination_cid),)),
            destination_cid,
            b"\x06client",
            (0x4000 | len(token)).to_bytes(2, "big"),
            token,
        )
    )
    return head + bytes(size - len(head))


def packet_type(data: object) -> QuicPacketType:
    assert isinstance(data, bytes)
    return pull_quic_header(Buffer(data=data), host_cid_length=8).packet_type


class TestInitial:
    """RFC 9000 sections 7.2, 8.1 and 14.1."""

    def test_fit_initial_is_admitted_under_its_own_connection_id(self) -> None:
        met = Door().meet(initial())
        assert met == Newcomer(b"\xc0\x00\x02\x07", b"original", None)

    @pytest.mark.clause(
        "RFC 9000", "7.2", "MUST", "discard a first Initial whose connection ID is below 8 bytes"
    )
    @pytest.mark.clause(
        "RFC 9000", "14.1", "MUST", "discard an Initial in a datagram below 1200 bytes"
    )
    @pytest.mark.parametrize(
        "data",
        [
            initial(size=1199),
            initial(destination_cid=b"short78"),
            b"\xe0" + initial()[1:],  # a Handshake packet
            b"\xd0" + initial()[1:],  # 0-RTT
            b"\xf0" + initial()[1:],  # Retry
            b"\xc0",
        ],
    )
    def test_unfit_beginning_is_dropped_and_counted(self, data: bytes) -> None:
        door = Door()
        assert door.meet(data) is None
        assert door.counters.packets_unroutable == 1

    def test_source_port_zero_is_dropped(self) -> None:
        assert Door().meet(initial(), ("192.0.2.7", 0)) is None

    def test_refusal_is_told_to_the_client_within_the_rate(self) -> None:
        door = Door(refusals_per_s=2)
        door.admission.draining = True
        answers = [door.meet(initial()) for _ in range(3)]
        assert [packet_type(answer) for answer in answers[:2]] == [QuicPacketType.INITIAL] * 2
        assert answers[2] is None
        assert door.counters.refused_total == 3


class TestRetry:
    """RFC 9000 section 8.1.2."""

    @pytest.mark.clause(
        "RFC 9000", "17.2.5", "MUST NOT", "answer one Initial with more than one Retry"
    )
    @pytest.mark.clause(
        "RFC 9000", "8.1.2", "MUST", "take the address of a Retry's token as validated"
    )
    def test_retry_then_its_token_admits_with_both_connection_ids(self) -> None:
        door = Door(retry_mode=RetryMode.ALWAYS)
        retry = door.meet(initial())
        assert isinstance(retry, bytes)
        assert len(retry) < 1200 / 3
        header = pull_quic_header(Buffer(data=retry), host_cid_length=8)
        assert header.packet_type is QuicPacketType.RETRY
        met = door.meet(initial(token=header.token, destination_cid=header.source_cid))
        assert met == Newcomer(b"\xc0\x00\x02\x07", b"original", header.source_cid)
        assert door.counters.retries_sent == 1

    @pytest.mark.clause(
        "RFC 9000", "8.1.2", "MUST", "take the address of a Retry's token as validated"
    )
    def test_token_of_another_relay_with_the_same_keys_is_good(self) -> None:
        retry = Door(retry_mode=RetryMode.ALWAYS).meet(initial())
        assert isinstance(retry, bytes)
        header = pull_quic_header(Buffer(data=retry), host_cid_length=8)
        again = initial(token=header.token, destination_cid=header.source_cid)
        assert isinstance(Door(retry_mode=RetryMode.ALWAYS).meet(again), Newcomer)
        stranger = Door(EndpointSecrets.generate(), retry_mode=RetryMode.ALWAYS)
        assert packet_type(stranger.meet(again)) is QuicPacketType.INITIAL
        assert stranger.counters.retry_tokens_invalid == 1

    @pytest.mark.clause(
        "RFC 9000", "8.1.2", "SHOULD", "close at once with INVALID_TOKEN over a bad Retry token"
    )
    def test_invalid_token_is_refused_even_when_none_is_needed(self) -> None:
        door = Door(retry_mode=RetryMode.NEVER)
        assert packet_type(door.meet(initial(token=bytes(60)))) is QuicPacketType.INITIAL
        assert door.counters.retry_tokens_invalid == 1


class TestVersionNegotiation:
    """RFC 9000 section 6.1."""

    @pytest.mark.clause(
        "RFC 9000", "6.1", "MUST", "answer unknown versions only in datagrams large enough"
    )
    def test_unknown_version_is_answered_from_1200_bytes_on(self) -> None:
        door = Door()
        assert door.meet(initial(version=0x1A2A3A4A, size=1199)) is None
        answer = door.meet(initial(version=0x1A2A3A4A))
        assert packet_type(answer) is QuicPacketType.VERSION_NEGOTIATION
        assert door.counters.version_negotiations_sent == 1

    @pytest.mark.clause(
        "RFC 9000", "6.1", "MUST NOT", "answer Version Negotiation with Version Negotiation"
    )
    def test_version_negotiation_is_never_answered(self) -> None:
        door = Door()
        assert door.meet(initial(version=0)) is None
        assert door.counters.version_negotiations_sent == 0

    @pytest.mark.clause("RFC 9000", "6.1", "SHOULD", "bound the rate of Version Negotiation")
    def test_answers_are_bounded_in_rate(self) -> None:
        door = Door(version_negotiations_per_s=3)
        answers = [door.meet(initial(version=0x1A2A3A4A)) for _ in range(10)]
        assert sum(answer is not None for answer in answers) == 3

    @pytest.mark.clause(
        "RFC 9000", "8.1", "MUST NOT", "send three times what an unvalidated address sent"
    )
    def test_longest_connection_ids_are_not_amplified(self) -> None:
        data = (
            b"\xc0\x1a\x2a\x3a\x4a\xff" + bytes(255) + b"\xff" + bytes(255) + bytes(1200 - 5 - 512)
        )
        answer = Door().meet(data)
        assert isinstance(answer, bytes)
        assert len(answer) < len(data)


class TestStatelessReset:
    """RFC 9000 section 10.3."""

    def test_unknown_short_header_packet_is_reset_by_its_connection_id(self) -> None:
        door = Door()
        answer = door.keeper.meet_short(b"\x40" + b"c" * 8 + bytes(1200), now_s=0.0)
        assert answer is not None
        assert answer.endswith(door.keeper.reset_tokens.token_for(b"c" * 8))
        assert door.counters.stateless_resets_sent == 1

    @pytest.mark.clause("RFC 9000", "10.3", "SHOULD", "bound the rate of stateless resets")
    def test_resets_are_bounded_in_rate(self) -> None:
        door = Door(stateless_resets_per_s=2)
        packet = b"\x40" + b"c" * 8 + bytes(100)
        answers = [door.keeper.meet_short(packet, now_s=0.0) for _ in range(5)]
        assert sum(answer is not None for answer in answers) == 2
        assert door.counters.packets_unroutable == 3


@given(st.binary(max_size=1500), st.booleans())
def test_noise_never_raises_and_is_never_answered_with_more(noise: bytes, padded: bool) -> None:
    data = b"\xc0" + noise + (bytes(1200) if padded else b"")
    met = Door(retry_mode=RetryMode.ALWAYS).meet(data)
    assert not isinstance(met, bytes) or len(met) < len(data)
    short = Door().keeper.meet_short(b"\x40" + noise, now_s=0.0)
    assert short is None or len(short) < len(noise) + 1


@given(
    first_byte=st.integers(0xC0, 0xFF),
    version=st.sampled_from([0, 1, 0x6B3343CF, 0x1A2A3A4A]),
    destination_cid=st.binary(max_size=22),
    source_cid=st.binary(max_size=22),
    token=st.binary(max_size=100),
    mode=st.sampled_from(RetryMode),
    draining=st.booleans(),
)
def test_every_well_formed_beginning_is_judged_and_no_answer_is_longer(
    first_byte: int,
    version: int,
    destination_cid: bytes,
    source_cid: bytes,
    token: bytes,
    mode: RetryMode,
    draining: bool,
) -> None:
    door = Door(retry_mode=mode)
    door.admission.draining = draining
    data = b"".join(
        (
            bytes((first_byte,)),
            version.to_bytes(4, "big"),
            bytes((len(destination_cid),)),
            destination_cid,
            bytes((len(source_cid),)),
            source_cid,
            (0x4000 | len(token)).to_bytes(2, "big"),
            token,
        )
    ).ljust(1200, b"\x00")
    for source in (SOURCE, ("2001:db8::7", 1), ("fe80::1%2", 65_535)):
        met = door.meet(data, source)
        assert not isinstance(met, bytes) or len(met) < len(data)
        assert not (draining and isinstance(met, Newcomer))
