"""The compiled functions alone: what they open, where they stop, what they seal."""

from collections.abc import Callable

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.tls import CipherSuite
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.quic.accelerator import (
    DirectionKeys,
    direction_keys,
    is_compiled,
    open_many,
    seal_many,
)

pytestmark = pytest.mark.skipif(
    not is_compiled(), reason="the accelerator is not compiled here: make accelerator"
)

CID = bytes(range(8))
GOOD = b"\x31\x05hello"
SUITES = (CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384)


class Sender:
    """Seals with aioquic's own code, and has the accelerator's keys of both directions."""

    def __init__(self, suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256) -> None:
        size = 48 if suite is CipherSuite.AES_256_GCM_SHA384 else 32
        self.crypto = CryptoPair()
        for context in (self.crypto.send, self.crypto.recv):
            context.setup(cipher_suite=suite, secret=b"s" * size, version=1)
        keys = direction_keys(self.crypto.send)
        assert keys is not None
        self.keys: DirectionKeys = keys

    def packet(
        self, plain: bytes, number: int, *, first: int = 0x41, cid: bytes = CID, size: int = 2
    ) -> bytes:
        header = bytes([first & 0xFC | (size - 1)]) + cid
        header += (number & ((1 << 8 * size) - 1)).to_bytes(size, "big")
        return self.crypto.encrypt_packet(header, plain, number)

    def open(
        self, packets: list[bytes], *, start: int = 0, expected: int = 0
    ) -> list[tuple[int, int, int, list[bytes] | bytes | None, int]]:
        key = self.keys.packet_key(self.crypto.send)
        return open_many(self.keys.header_key, key, packets, start, CID, 0, expected)

    def seal(self, plains: list[bytes], number: int) -> list[bytes]:
        key = self.keys.packet_key(self.crypto.send)
        return seal_many(self.keys.header_key, key, plains, number, 0x41, CID)


@pytest.fixture(params=SUITES, ids=lambda suite: suite.name)
def sender(request: pytest.FixtureRequest) -> Sender:
    return Sender(request.param)


class TestOpening:
    """RFC 9001 sections 5.3 and 5.4; runs of datagrams come together, all else one by one."""

    def test_consecutive_datagrams_are_one_run(self, sender: Sender) -> None:
        packets = [sender.packet(b"\x31\x01%c" % n, n) for n in range(7, 10)]
        assert sender.open(packets, expected=7) == [(7, 3, 0x41, [b"\x07", b"\x08", b"\x09"], 9)]

    def test_a_gap_begins_another_run(self, sender: Sender) -> None:
        packets = [sender.packet(GOOD, n) for n in (1, 2, 5)]
        found = sender.open(packets, expected=1)
        assert [(number, count) for number, count, *_ in found] == [(1, 2), (5, 1)]

    def test_other_frames_come_as_they_are(self, sender: Sender) -> None:
        packets = [sender.packet(plain, n) for n, plain in enumerate((GOOD, b"\x01" * 9, GOOD))]
        found = sender.open(packets)
        assert [(n, count, content) for n, count, _, content, _ in found] == [
            (0, 1, [b"hello"]),
            (1, 0, b"\x01" * 9),
            (2, 1, [b"hello"]),
        ]

    @pytest.mark.parametrize(
        "plain",
        [
            b"\x31\x05hell",
            b"\x31\x04hello",
            b"\x30hello",
            b"\x31\x80\x00\x00\x05hello",
            GOOD + GOOD,
        ],
    )
    def test_only_one_datagram_to_the_end_is_a_datagram(self, sender: Sender, plain: bytes) -> None:
        ((_, count, _, content, _),) = sender.open([sender.packet(plain, 3)], expected=3)
        assert (count, content) == (0, plain)

    def test_a_forged_packet_holds_nothing_and_ends_nothing(self, sender: Sender) -> None:
        packets = [sender.packet(GOOD, n) for n in range(3)]
        packets[1] = packets[1][:-1] + bytes([packets[1][-1] ^ 1])
        contents = [content for *_, content, _ in sender.open(packets)]
        assert contents == [[b"hello"], None, [b"hello"]]

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(lambda s: s.packet(GOOD, 1, cid=bytes(8)), id="another connection ID"),
            pytest.param(lambda s: s.packet(GOOD, 1, first=0x45), id="the other key phase"),
            pytest.param(lambda s: s.packet(GOOD, 1, first=0x51), id="reserved bits"),
            pytest.param(lambda _: b"\xc0" + bytes(60), id="a long header"),
            pytest.param(lambda s: s.packet(GOOD, 1)[:28], id="too short to sample"),
            pytest.param(lambda _: b"", id="empty"),
        ],
    )
    def test_it_stops_before_what_is_not_for_it(
        self, sender: Sender, bad: Callable[[Sender], bytes]
    ) -> None:
        packets = [sender.packet(GOOD, 0), bad(sender), sender.packet(GOOD, 2)]
        assert [number for number, *_ in sender.open(packets)] == [0]
        assert [number for number, *_ in sender.open(packets, start=2)] == [2]

    @given(
        number=st.integers(0, (1 << 62) - 1),
        distance=st.integers(-100, 100),
        size=st.sampled_from((1, 2, 3, 4)),
    )
    def test_numbers_are_completed_as_aioquic_does(
        self, number: int, distance: int, size: int
    ) -> None:
        """RFC 9000 appendix A.3."""
        sender = Sender()
        expected = max(0, min(number + distance, (1 << 62) - 1))
        packet = sender.packet(GOOD, number, size=size)
        _, plain, found = sender.crypto.decrypt_packet(packet, 9, expected)
        assert plain == GOOD
        ((ours, *_),) = sender.open([packet], expected=expected)
        assert ours == found == number


class TestSealing:
    def test_packets_are_those_that_aioquic_would_have_made(self, sender: Sender) -> None:
        plains = [GOOD, bytes(1_200), b"\x02\x00\x00\x00\x00"]
        for number in (0, 65_534, 1 << 40):
            expected = [sender.packet(plain, number + n) for n, plain in enumerate(plains)]
            assert sender.seal(plains, number) == expected

    def test_what_is_too_short_to_sample_is_refused(self, sender: Sender) -> None:
        with pytest.raises(ValueError, match="too short"):
            sender.seal([b"\x01"], 0)


class TestKeys:
    def test_the_packet_key_follows_a_key_update_and_the_header_key_stays(self) -> None:
        sender = Sender()
        header_key = sender.keys.header_key
        before = sender.keys.packet_key(sender.crypto.send)
        assert sender.keys.packet_key(sender.crypto.send) is before
        sender.crypto.update_key()
        packet = sender.packet(GOOD, 1, first=0x45)
        key = sender.keys.packet_key(sender.crypto.send)
        assert key is not before
        found = open_many(header_key, key, [packet], 0, CID, 4, 1)
        assert found == [(1, 1, 0x45, [b"hello"], 1)]

    def test_chacha20_is_not_for_it(self) -> None:
        crypto = CryptoPair()
        suite = CipherSuite.CHACHA20_POLY1305_SHA256
        crypto.send.setup(cipher_suite=suite, secret=bytes(32), version=1)
        assert direction_keys(crypto.send) is None
