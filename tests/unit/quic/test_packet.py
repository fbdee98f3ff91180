"""The look at a packet before any connection knows it (RFC 8999, RFC 9443)."""

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import (
    QuicPacketType,
    encode_quic_retry,
    pull_quic_header,
)
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.quic.packet import (
    KIND_BY_FIRST_BYTE,
    SUPPORTED_VERSIONS,
    VERSION_1,
    VERSION_2,
    Kind,
    LongType,
    encode_version_negotiation,
    peek_long_header,
)


def long_packet(
    *,
    version: int = VERSION_1,
    type_bits: int = 0,
    destination_cid: bytes = b"d" * 8,
    source_cid: bytes = b"s" * 8,
    rest: bytes = b"\x00\x44\x00" + bytes(1024),
) -> bytes:
    return b"".join(
        (
            bytes((0xC0 | type_bits << 4,)),
            version.to_bytes(4, "big"),
            bytes((len(destination_cid),)),
            destination_cid,
            bytes((len(source_cid),)),
            source_cid,
            rest,
        )
    )


class TestFirstByte:
    """RFC 9443 section 3, narrowed to what this port speaks."""

    @pytest.mark.parametrize(
        ("first_byte", "kind"),
        [
            (0, Kind.STUN),
            (3, Kind.STUN),
            (4, Kind.DROP),
            (20, Kind.DROP),
            (63, Kind.DROP),
            (64, Kind.SHORT),
            (127, Kind.SHORT),
            (128, Kind.DROP),
            (191, Kind.DROP),
            (192, Kind.LONG),
            (255, Kind.LONG),
        ],
    )
    def test_first_byte_tells_the_protocols_apart(self, first_byte: int, kind: Kind) -> None:
        assert KIND_BY_FIRST_BYTE[first_byte] is kind


class TestLongHeader:
    """RFC 9000 section 17.2, RFC 9369 section 3.2."""

    def test_initial_shows_its_connection_ids_and_token(self) -> None:
        token = b"t" * 70
        header = peek_long_header(long_packet(rest=b"\x40\x46" + token + b"\x01\x00"))
        assert header is not None
        assert header.packet_type is LongType.INITIAL
        assert (header.destination_cid, header.source_cid) == (b"d" * 8, b"s" * 8)
        assert header.token == token

    @pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
    @pytest.mark.parametrize("type_bits", [0, 1, 2])
    def test_types_are_those_that_aioquic_reads(self, version: int, type_bits: int) -> None:
        bits = type_bits if version == VERSION_1 else (type_bits + 1) & 3
        rest = b"\x00\x01\x00" if type_bits == 0 else b"\x01\x00"
        data = long_packet(version=version, type_bits=bits, rest=rest)
        header = peek_long_header(data)
        reference = pull_quic_header(Buffer(data=data), host_cid_length=8)
        assert header is not None
        assert header.packet_type is not None
        assert header.packet_type.name == reference.packet_type.name

    @pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
    def test_retry_is_told_from_initial_in_both_versions(self, version: int) -> None:
        data = encode_quic_retry(version, b"s" * 8, b"d" * 8, b"o" * 8, b"token")
        header = peek_long_header(data)
        assert header is not None
        assert header.packet_type is LongType.RETRY

    def test_unknown_version_may_have_long_connection_ids(self) -> None:
        header = peek_long_header(
            long_packet(version=0x1A2A3A4A, destination_cid=b"x" * 200, source_cid=b"y" * 255)
        )
        assert header is not None
        assert header.packet_type is None
        assert len(header.source_cid) == 255

    def test_long_connection_id_in_a_known_version_is_refused(self) -> None:
        assert peek_long_header(long_packet(source_cid=b"y" * 21)) is None

    def test_every_cut_of_an_initial_is_refused_or_read_without_raising(self) -> None:
        data = long_packet(rest=b"\x40\x46" + b"t" * 70)
        assert peek_long_header(data) is not None
        for size in range(len(data)):
            assert peek_long_header(data[:size]) is None

    @given(st.binary(max_size=80))
    def test_noise_never_raises(self, noise: bytes) -> None:
        header = peek_long_header(b"\xc0" + VERSION_2.to_bytes(4, "big") + noise)
        assert header is None or header.packet_type is not None

    @given(st.binary(max_size=300))
    def test_noise_of_any_version_never_raises(self, noise: bytes) -> None:
        header = peek_long_header(b"\xff" + noise)
        assert header is None or len(header.destination_cid) <= 255


class TestVersionNegotiation:
    """RFC 9000 section 17.2.1."""

    @pytest.mark.clause(
        "RFC 9000", "17.2.1", "MUST", "echo both connection IDs in Version Negotiation"
    )
    def test_it_offers_our_versions_and_swaps_the_connection_ids(self) -> None:
        data = encode_version_negotiation(
            destination_cid=b"client", source_cid=b"server12", refused_version=0x1A2A3A4A
        )
        header = pull_quic_header(Buffer(data=data), host_cid_length=8)
        assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
        assert header.destination_cid == b"client"
        assert header.source_cid == b"server12"
        assert set(SUPPORTED_VERSIONS) < set(header.supported_versions)

    @pytest.mark.clause("RFC 9000", "6.3", "SHOULD", "offer a reserved version")
    def test_its_reserved_version_is_neither_spoken_nor_the_refused_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("secrets.randbits", lambda bits: (1 << bits) - 1)
        data = encode_version_negotiation(
            destination_cid=b"", source_cid=b"", refused_version=0xFAFAFAFA
        )
        reserved = int.from_bytes(data[7:11], "big")
        assert reserved & 0x0F0F0F0F == 0x0A0A0A0A
        assert reserved != 0xFAFAFAFA
