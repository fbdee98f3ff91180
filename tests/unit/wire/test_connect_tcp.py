"""The framing of TCP tunnels (draft-ietf-httpbis-connect-tcp section 3, RFC 9110 section 9.3.6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.connect_tcp import CapsuleFraming, DataCapsuleTypes, RawFraming
from masque_relay.wire.errors import WireError
from masque_relay.wire.wrap_up import WRAP_UP_CAPSULE, WrapUpReader

DATA = bytes.fromhex("a028d7f2")
FINAL = bytes.fromhex("a028d7f3")


def capsules() -> CapsuleFraming:
    return CapsuleFraming(DataCapsuleTypes())


class TestCapsules:
    """The draft's codepoints for tests, as bytes."""

    def test_payload_is_encoded_as_a_data_capsule(self) -> None:
        assert capsules().encode(b"abc") == DATA + b"\x03abc"

    def test_the_end_is_an_empty_final_data_capsule(self) -> None:
        assert capsules().encode_end() == FINAL + b"\0"

    def test_payload_of_data_and_final_data_is_handed_on_in_order(self) -> None:
        framing = capsules()
        first = framing.feed(DATA + b"\x03abc" + DATA + b"\0")
        assert (first, framing.has_ended) == ([b"abc"], False)
        last = framing.feed(FINAL + b"\x02de")
        assert (last, framing.has_ended) == ([b"de"], True)
        assert framing.capsule_count == 3

    def test_unknown_capsule_is_skipped_even_after_the_end(self) -> None:
        framing = capsules()
        assert framing.feed(b"\x17\x04skip" + FINAL + b"\0" + b"\x17\x05later") == []
        assert framing.has_ended
        assert framing.skipped_count == 2
        assert framing.finish()

    @pytest.mark.parametrize("head", [DATA, FINAL])
    def test_data_after_final_data_is_malformed(self, head: bytes) -> None:
        framing = capsules()
        framing.feed(FINAL + b"\0")
        with pytest.raises(WireError, match="after FINAL_DATA"):
            framing.feed(head + b"\x01x")

    def test_final_data_that_has_begun_is_no_end_yet(self) -> None:
        framing = capsules()
        assert framing.feed(FINAL + b"\x02d") == [b"d"]
        assert not framing.has_ended
        with pytest.raises(WireError, match="inside a capsule"):
            framing.finish()

    def test_stream_that_ends_without_final_data_was_cut_short(self) -> None:
        framing = capsules()
        framing.feed(DATA + b"\x01x")
        assert not framing.finish()

    def test_capsule_of_any_length_is_handed_on_as_it_arrives(self) -> None:
        framing = capsules()
        gibibyte = (0xC000_0000_0000_0000 | 1 << 30).to_bytes(8, "big")
        assert framing.feed(DATA + gibibyte + b"first") == [b"first"]
        assert framing.feed(b"second") == [b"second"]

    def test_codepoints_can_be_chosen(self) -> None:
        framing = CapsuleFraming(DataCapsuleTypes(data=0x21, final_data=0x22))
        assert framing.encode(b"x") == b"\x21\x01x"
        assert framing.encode_end() == b"\x22\0"
        assert framing.feed(b"\x21\x01y\x22\0") == [b"y"]
        assert framing.has_ended

    @given(
        payloads=st.lists(st.binary(max_size=300), max_size=8),
        cuts=st.lists(st.integers(min_value=1, max_value=40)),
    )
    def test_any_split_of_the_stream_gives_the_same_payload(
        self, payloads: list[bytes], cuts: list[int]
    ) -> None:
        sender, receiver = capsules(), capsules()
        wire = b"".join(map(sender.encode, payloads)) + b"\x17\x02??" + sender.encode_end()
        received = b""
        for size in cuts:
            received += b"".join(receiver.feed(wire[:size]))
            wire = wire[size:]
        for index in range(len(wire)):
            received += b"".join(receiver.feed(wire[index : index + 1]))
        assert received == b"".join(payloads)
        assert receiver.has_ended
        assert receiver.finish()

    @given(data=st.binary(max_size=200))
    def test_any_bytes_are_taken_or_refused_with_a_wire_error(self, data: bytes) -> None:
        framing = capsules()
        try:
            framing.feed(data)
            framing.finish()
        except WireError:
            return


class TestRaw:
    """Classic CONNECT has no framing."""

    def test_bytes_are_payload_and_the_streams_end_is_fin(self) -> None:
        framing = RawFraming()
        assert framing.feed(b"abc") == [b"abc"]
        assert framing.encode(b"def") == b"def"
        assert framing.encode_end() == b""
        assert framing.ends_with_stream
        assert (framing.has_ended, framing.finish()) == (False, True)
        assert framing.has_ended


class TestWrapUp:
    def test_a_proxy_does_not_take_it_and_a_client_once(self) -> None:
        with pytest.raises(WireError, match="from a client"):
            capsules().feed(WRAP_UP_CAPSULE)
        told: list[int] = []
        framing = CapsuleFraming(DataCapsuleTypes(), WrapUpReader(lambda: told.append(1)))
        data = capsules().encode(b"payload")
        assert framing.feed(WRAP_UP_CAPSULE + data) == [b"payload"]
        assert told == [1]
        with pytest.raises(WireError, match="second"):
            framing.feed(WRAP_UP_CAPSULE)
