"""H3Framing alone, on a transport that records what it is told."""

import itertools
from collections.abc import Sequence

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import (
    ErrorCode,
    MessageError,
    ProtocolError,
    encode_frame,
    encode_settings,
)
from aioquic.h3.events import DataReceived, HeadersReceived
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.address import Endpoint
from masque_relay.quic.h3_framing import H3Framing
from masque_relay.quic.limits import H3Limits


class RecordingTransport:
    """A QuicTransport without QUIC."""

    connection_id = "00"
    peer: Endpoint
    server_name = None
    alpn = "h3"
    peer_certificate_chain = ()
    max_datagram_payload_bytes = 1_200

    def __init__(self, *, is_client: bool) -> None:
        self.is_client = is_client
        self.sent: dict[int, bytearray] = {}
        self.resets: list[tuple[int, int]] = []
        self.stops: list[tuple[int, int]] = []
        self._next_uni = 2 if is_client else 3

    def next_stream_id(self, *, unidirectional: bool) -> int:
        assert unidirectional
        return self._next_uni

    def send_stream_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        if stream_id == self._next_uni:
            self._next_uni += 4
        self.sent.setdefault(stream_id, bytearray()).extend(data)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self.resets.append((stream_id, error_code))

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self.stops.append((stream_id, error_code))

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        raise AssertionError("framing sends no datagrams")

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        raise AssertionError("not asked for")

    def unsent_stream_bytes(self, stream_id: int) -> int:
        return 0

    def consume_stream_bytes(self, stream_id: int, byte_count: int) -> None:
        pass

    def close(self, error_code: int, reason: str) -> None:
        raise AssertionError("the session closes, not the framing")


def framing(*, is_client: bool = False) -> tuple[H3Framing, RecordingTransport]:
    transport = RecordingTransport(is_client=is_client)
    return H3Framing(transport, limits=H3Limits()), transport


REQUEST = encode_frame(1, b"\0\0\xd1\xd7\xc1\x50\x01a")
GOOD_STREAM = (
    REQUEST
    + encode_frame(0, b"hello")
    + encode_frame(0x21, b"grease")
    + encode_frame(0, b"world")
    + encode_frame(1, b"\0\0\x24\x00x-a\x01b")
)


class TestSplits:
    """The result does not depend on how the bytes arrive."""

    def body_of(self, chunks: list[bytes]) -> tuple[list[object], bytes, bool]:
        h3, _ = framing()
        heads: list[object] = []
        body = bytearray()
        ended = False
        for number, chunk in enumerate(chunks):
            for event in h3.receive_data(0, chunk, end_stream=number == len(chunks) - 1):
                if isinstance(event, HeadersReceived):
                    heads.append(event.headers)
                    ended = ended or event.stream_ended
                elif isinstance(event, DataReceived):
                    body += event.data
                    ended = ended or event.stream_ended
        return heads, bytes(body), ended

    def test_single_bytes_are_as_good_as_one_piece(self) -> None:
        whole = self.body_of([REQUEST + encode_frame(0, b"hello")])
        split = self.body_of([bytes([b]) for b in REQUEST + encode_frame(0, b"hello")])
        assert whole == split
        assert whole[1:] == (b"hello", True)

    @given(cuts=st.lists(st.integers(0, len(REQUEST) + 20), max_size=6))
    def test_any_cuts_are_as_good_as_one_piece(self, cuts: list[int]) -> None:
        data = REQUEST + encode_frame(0, b"hello") + encode_frame(0x21, b"xy")
        edges = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
        chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
        assert self.body_of(chunks) == self.body_of([data])


class TestHostileBytes:
    """Accepted, or refused as MessageError or ProtocolError; anything else is a bug of ours."""

    @given(chunks=st.lists(st.binary(max_size=200), max_size=5), fin=st.booleans())
    def test_random_request_streams(self, chunks: list[bytes], fin: bool) -> None:
        h3, _ = framing()
        try:
            for number, chunk in enumerate(chunks):
                h3.receive_data(0, chunk, end_stream=fin and number == len(chunks) - 1)
        except ProtocolError:
            pass

    @given(stream_type=st.integers(0, 70), chunks=st.lists(st.binary(max_size=100), max_size=5))
    def test_random_unidirectional_streams(self, stream_type: int, chunks: list[bytes]) -> None:
        h3, _ = framing()
        try:
            for chunk in [encode_uint_var(stream_type), *chunks]:
                h3.receive_data(14, chunk, end_stream=False)
        except ProtocolError:
            pass

    @given(block=st.binary(max_size=300))
    def test_random_field_sections(self, block: bytes) -> None:
        h3, _ = framing()
        try:
            events = h3.receive_data(0, encode_frame(1, b"\0\0" + block), end_stream=True)
        except ProtocolError:
            return
        assert all(isinstance(event, HeadersReceived) for event in events)


class TestBounds:
    def test_a_header_frame_is_refused_by_its_announcement(self) -> None:
        h3, _ = framing()
        with pytest.raises(MessageError, match="too large"):
            h3.receive_data(0, b"\x01" + encode_uint_var(16_385), end_stream=False)

    def test_settings_are_refused_by_their_announcement(self) -> None:
        h3, _ = framing()
        with pytest.raises(ProtocolError) as caught:
            h3.receive_data(2, b"\x00\x04" + encode_uint_var(4_097), end_stream=False)
        assert caught.value.error_code == ErrorCode.H3_EXCESSIVE_LOAD

    def test_unknown_frames_are_skipped_without_buffering(self) -> None:
        h3, _ = framing()
        h3.receive_data(2, b"\x00" + encode_frame(4, b""), end_stream=False)
        h3.receive_data(2, b"\x21" + encode_uint_var(1 << 40), end_stream=False)
        for _ in range(10):
            h3.receive_data(2, bytes(10_000), end_stream=False)
        assert len(h3._stream[2].buffer) == 0

    def test_nothing_is_said_to_a_peer_that_cancels(self) -> None:
        """No QPACK cancellations pile up for a peer that grants no credit."""
        h3, transport = framing()
        said = {stream_id: bytes(data) for stream_id, data in transport.sent.items()}
        for stream_id in range(0, 400, 4):
            h3.receive_data(stream_id, REQUEST, end_stream=False)
            h3.receive_reset(stream_id)
            h3.end_sending(stream_id)
        assert {stream_id: bytes(data) for stream_id, data in transport.sent.items()} == said
        assert h3._stream == {}

    def test_the_peers_table_is_not_taken_up(self) -> None:
        h3, transport = framing()
        settings = encode_settings({0x1: 1 << 30, 0x7: 1 << 20})
        h3.receive_data(2, b"\x00" + encode_frame(4, settings), end_stream=False)
        h3.receive_data(0, REQUEST, end_stream=True)
        for _ in range(50):
            h3._encode_headers(0, [(b"x-a", b"v" * 100), (b":status", b"200")])
        assert bytes(transport.sent[7]) == b"\x02"


class TestUnknownStreams:
    @pytest.mark.clause("RFC 9114", "6.2", "MUST", "stop reading streams of unknown types")
    def test_they_are_stopped_and_not_read(self) -> None:
        h3, transport = framing()
        for number, stream_type in enumerate((0x21, 0x54, 0x4000)):
            stream_id = 14 + 4 * number
            h3.receive_data(stream_id, encode_uint_var(stream_type) + b"x", end_stream=False)
            assert h3.receive_data(stream_id, bytes(1_000), end_stream=True) == []
            assert transport.stops[-1] == (stream_id, ErrorCode.H3_STREAM_CREATION_ERROR)
        assert h3._stream == {}
