"""Tests of masque_relay.wire.datagram."""

import pytest

from masque_relay.wire.datagram import (
    MAX_QUARTER_STREAM_ID,
    encode_quarter_stream_id,
    split_http_datagram,
)
from masque_relay.wire.errors import Scope, WireError
from masque_relay.wire.varint import encode_varint


class TestQuarterStreamId:
    """RFC 9297 section 2.1."""

    @pytest.mark.parametrize(
        ("stream_id", "encoded"),
        [(0, "00"), (4, "01"), (252, "3f"), (256, "4040"), (2**62 - 4, "cfffffffffffffff")],
    )
    def test_the_stream_id_is_divided_by_four(self, stream_id: int, encoded: str) -> None:
        assert encode_quarter_stream_id(stream_id) == bytes.fromhex(encoded)
        assert split_http_datagram(bytes.fromhex(encoded) + b"\x00hi") == (stream_id, b"\x00hi")

    def test_an_empty_payload_is_a_payload(self) -> None:
        assert split_http_datagram(b"\x01") == (4, b"")

    @pytest.mark.parametrize("stream_id", [1, 2, 3, 5])
    def test_only_request_streams_have_datagrams(self, stream_id: int) -> None:
        with pytest.raises(ValueError, match="not a request stream"):
            encode_quarter_stream_id(stream_id)

    @pytest.mark.parametrize("data", [b"", b"\x40", b"\xc0\x00\x00"])
    def test_a_datagram_too_short_is_the_connections_fault(self, data: bytes) -> None:
        with pytest.raises(WireError, match="ends inside") as caught:
            split_http_datagram(data)
        assert caught.value.scope is Scope.CONNECTION

    def test_an_id_above_the_last_request_stream_is_the_connections_fault(self) -> None:
        with pytest.raises(WireError, match="above 2\\^60-1") as caught:
            split_http_datagram(encode_varint(MAX_QUARTER_STREAM_ID + 1) + b"x")
        assert caught.value.scope is Scope.CONNECTION
