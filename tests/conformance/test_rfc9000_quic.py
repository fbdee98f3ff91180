"""RFC 9000, what a relay's peer could make it break: validation, flow control, frames, idleness."""

from dataclasses import replace

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicErrorCode

from masque_relay.quic.limits import QuicLimits
from tests.support.aioquic_relays import Attacker, OurRelay
from tests.support.quic_pair import make_pair, pair_with_limits

STREAM_OFF_LEN, STREAM_OFF_LEN_FIN = 0x0E, 0x0F


def stream_frame(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    kind = STREAM_OFF_LEN_FIN if fin else STREAM_OFF_LEN
    return (
        bytes([kind])
        + encode_uint_var(stream_id)
        + encode_uint_var(offset)
        + encode_uint_var(len(data))
        + data
    )


def close_code_after(*frames: bytes) -> int | None:
    """Return how the relay closes the connection over frames written by hand."""
    attacker = Attacker(OurRelay)
    for each in frames:
        attacker.send_frames(each)
    attacker.settle(5)
    return attacker.close_code


@pytest.mark.clause("RFC 9000", "4.1", "MUST", "FLOW_CONTROL_ERROR for bytes beyond the credit")
def test_section_4_1_bytes_beyond_the_streams_credit() -> None:
    beyond = QuicLimits().stream_window_bytes
    assert close_code_after(stream_frame(0, beyond, b"x")) == QuicErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.clause("RFC 9000", "4.1", "MUST", "FLOW_CONTROL_ERROR for bytes beyond the credit")
def test_section_4_1_bytes_beyond_the_connections_credit() -> None:
    window, limits = QuicLimits().stream_window_bytes, QuicLimits()
    count = limits.connection_window_bytes // window + 1
    frames = [stream_frame(4 * index, window - 1, b"x") for index in range(count)]
    assert close_code_after(*frames) == QuicErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.clause("RFC 9000", "4.5", "MUST", "never take a final size back")
@pytest.mark.parametrize(
    "later",
    [
        stream_frame(0, 10, b"more"),
        stream_frame(0, 0, b"less", fin=True),
        b"\x04\x00\x00\x08",  # RESET_STREAM, another final size
    ],
    ids=["more", "less", "reset"],
)
def test_section_4_5_a_final_size_stays(later: bytes) -> None:
    first = stream_frame(0, 9, b"x", fin=True)
    assert close_code_after(first, later) == QuicErrorCode.FINAL_SIZE_ERROR


@pytest.mark.clause("RFC 9000", "4.6", "MUST", "STREAM_LIMIT_ERROR for streams beyond the limit")
@pytest.mark.parametrize("kind", [0, 2], ids=["bidirectional", "unidirectional"])
def test_section_4_6_streams_beyond_the_limit(kind: int) -> None:
    limits = QuicLimits()
    count = limits.max_unidirectional_streams if kind else limits.max_bidirectional_streams
    frame = stream_frame(4 * count + kind, 0, b"x")
    assert close_code_after(frame) == QuicErrorCode.STREAM_LIMIT_ERROR


@pytest.mark.clause(
    "RFC 9000", "8.1", "MUST NOT", "send three times what an unvalidated address sent"
)
def test_section_8_1_an_unvalidated_address_gets_at_most_three_times_its_bytes() -> None:
    pair = make_pair(handshake=False)
    received_bytes = sent_bytes = 0
    packets_let_through = 1

    def to_server(packet: bytes) -> list[bytes]:
        nonlocal received_bytes, packets_let_through
        if not packets_let_through:
            return []
        packets_let_through -= 1
        received_bytes += len(packet)
        return [packet]

    def to_client(packet: bytes) -> list[bytes]:
        nonlocal sent_bytes
        sent_bytes += len(packet)
        return []

    pair.to_server, pair.to_client = to_server, to_client
    pair.wait(30.0, steps=300)
    assert 0 < sent_bytes <= 3 * received_bytes


@pytest.mark.clause("RFC 9000", "8.2.2", "MUST", "answer PATH_CHALLENGE with its own bytes")
def test_section_8_2_2_a_path_challenge_is_answered() -> None:
    attacker = Attacker(OurRelay)
    challenges = attacker.quic._network_paths[0].local_challenges
    challenges.append(b"01234567")
    attacker.send_frames(b"\x1a01234567")
    attacker.settle(5)
    assert not challenges  # cleared by the response that matches, and by nothing else


@pytest.mark.clause("RFC 9000", "10.1", "MUST", "end silently after the smaller idle timeout")
@pytest.mark.parametrize(("client_s", "server_s"), [(5.0, 60.0), (60.0, 5.0)])
def test_section_10_1_the_smaller_idle_timeout_counts(client_s: float, server_s: float) -> None:
    limits = QuicLimits()
    pair = pair_with_limits(
        client=replace(limits, idle_timeout_s=client_s),
        server=replace(limits, idle_timeout_s=server_s),
    )
    pair.to_server = pair.to_client = lambda _: []
    pair.wait(4.0)
    assert pair.server.termination is None
    pair.wait(6.0)
    assert pair.server.termination is not None
    assert pair.client.termination is not None


@pytest.mark.clause("RFC 9000", "12.4", "MUST", "FRAME_ENCODING_ERROR for unknown frame types")
@pytest.mark.parametrize("frame", [b"\x21", b"\x3f", b"\x7f\xff"])
def test_section_12_4_an_unknown_frame_type(frame: bytes) -> None:
    assert close_code_after(frame) == QuicErrorCode.FRAME_ENCODING_ERROR


@pytest.mark.clause("RFC 9000", "19", "MUST", "FRAME_ENCODING_ERROR for a frame that is cut off")
@pytest.mark.parametrize("frame", [b"\x0e\x00", b"\x04\x00", b"\x10", b"\x1a123", b"\x06\x00\x44"])
def test_section_19_a_frame_that_is_cut_off(frame: bytes) -> None:
    assert close_code_after(frame) == QuicErrorCode.FRAME_ENCODING_ERROR


@pytest.mark.clause("RFC 9000", "19.7", "MUST", "PROTOCOL_VIOLATION for NEW_TOKEN from a client")
@pytest.mark.clause("RFC 9000", "19.20", "MUST", "PROTOCOL_VIOLATION for its HANDSHAKE_DONE")
@pytest.mark.parametrize("frame", [b"\x07\x03abc", b"\x1e"], ids=["NEW_TOKEN", "HANDSHAKE_DONE"])
def test_section_19_frames_that_only_servers_send(frame: bytes) -> None:
    assert close_code_after(frame) == QuicErrorCode.PROTOCOL_VIOLATION


@pytest.mark.clause("RFC 9000", "19.8", "MUST", "STREAM_STATE_ERROR for streams that are not there")
@pytest.mark.parametrize(
    "frame",
    [
        stream_frame(1, 0, b"x"),  # server-initiated, and we opened none
        stream_frame(3, 0, b"x"),  # ours to send on only
        b"\x05\x02\x00",  # STOP_SENDING for what we only receive on
        b"\x11\x02\x44\x00",  # MAX_STREAM_DATA likewise
        b"\x04\x03\x00\x00",  # RESET_STREAM for what we only send on
    ],
    ids=["not opened", "send-only", "STOP_SENDING", "MAX_STREAM_DATA", "RESET_STREAM"],
)
def test_section_19_8_frames_for_the_wrong_streams(frame: bytes) -> None:
    assert close_code_after(frame) == QuicErrorCode.STREAM_STATE_ERROR


@pytest.mark.clause("RFC 9000", "19.11", "MUST", "refuse MAX_STREAMS above 2^60")
@pytest.mark.parametrize("frame_type", [0x12, 0x13])
def test_section_19_11_more_streams_than_there_are_ids(frame_type: int) -> None:
    frame = bytes([frame_type]) + encode_uint_var((1 << 60) + 1)
    assert close_code_after(frame) == QuicErrorCode.FRAME_ENCODING_ERROR
