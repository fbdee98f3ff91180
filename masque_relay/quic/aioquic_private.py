"""Owns the list of aioquic's private names that this package uses, and the reaches into them.

aioquic promises nothing about these names, so it is pinned to ``>=1.7.2,<1.8`` and
``tests/unit/quic/test_aioquic_private.py`` fails when one of them moves. What a subclass reaches
through ``self`` is used where it is needed; what belongs to somebody else is reached here only.
"""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from typing import TYPE_CHECKING, Final

from aioquic._buffer import Buffer as Buffer  # noqa: PLC0414 - aioquic.buffer does not export it
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream

if TYPE_CHECKING:
    from aioquic.quic.congestion.base import QuicCongestionControl
    from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
    from aioquic.quic.recovery import QuicPacketPacer

CONNECTION_METHODS: Final = (
    "_get_or_create_stream",
    "_get_or_create_stream_for_send",
    "_handle_ack_frame",
    "_handle_crypto_frame",
    "_handle_datagram_frame",
    "_handle_stream_frame",
    "_initialize",
    "_flush_builder",
    "_parse_transport_parameters",
    "_payload_received",
    "_replenish_connection_ids",
    "_update_traffic_key",
    "_write_application",
    "_write_connection_limits",
    "_write_datagram_frame",
    "_write_reset_stream_frame",
    "_write_stop_sending_frame",
    "_write_stream_limits",
    "_close_end",
)
"""Of QuicConnection: overridden or called."""

CONNECTION_ATTRIBUTES: Final = (
    "_ack_delay",
    "_close_event",
    "_close_pending",
    "_configuration",
    "_crypto_streams",
    "_cryptos",
    "_datagrams_pending",
    "_events",
    "_handshake_complete",
    "_handshake_done_pending",
    "_handshake_confirmed",
    "_host_cid_seq",
    "_host_cids",
    "_is_client",
    "_local_initial_source_connection_id",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_logger",
    "_loss",
    "_max_datagram_size",
    "_network_paths",
    "_pacing_at",
    "_packet_number",
    "_peer_cid",
    "_peer_cid_available",
    "_ping_pending",
    "_probe_pending",
    "_quic_logger",
    "_remote_ack_delay_exponent",
    "_remote_active_connection_id_limit",
    "_remote_max_data",
    "_remote_max_data_used",
    "_remote_max_datagram_frame_size",
    "_retire_connection_ids",
    "_spaces",
    "_spin_bit",
    "_state",
    "_streams",
    "_streams_blocked_pending",
    "_streams_queue",
    "_version",
    "host_cid",
)
"""Of a QuicConnection: read or set."""

TLS_METHODS: Final = ("_server_handle_certificate", "_server_handle_hello")
"""Of tls.Context: overridden."""

TLS_ATTRIBUTES: Final = (
    "_max_early_data",
    "_peer_certificate",
    "_peer_certificate_chain",
    "_request_client_certificate",
)
"""Of a tls.Context: read or set."""

RECOVERY_ATTRIBUTES: Final = ("_cc", "_pacer", "_pto_count")
"""Of a QuicPacketRecovery: read or set."""

PACER_ATTRIBUTES: Final = ("_max_datagram_size", "bucket_max", "packet_time")
"""Of a QuicPacketPacer: read or set."""

RECEIVER_METHODS: Final = ("handle_frame", "handle_reset")
"""Of QuicStreamReceiver: overridden; the rest of it works on what they leave."""

RECEIVER_ATTRIBUTES: Final = (
    "_buffer",
    "_buffer_start",
    "_final_size",
    "_ranges",
    "_stream_id",
    "highest_offset",
    "is_finished",
)
"""Of a QuicStreamReceiver: read, set or taken away."""

SENDER_ATTRIBUTES: Final = (
    "_buffer_fin",
    "_buffer_start",
    "_buffer_stop",
    "_pending",
    "_pending_eof",
    "_reset_error_code",
)
"""Of a QuicStreamSender: read."""

BUILDER_ATTRIBUTES: Final = ("_packet",)
"""Of a QuicPacketBuilder: read."""

H3_METHODS: Final = (
    "_abort_incomplete_request",
    "_check_content_length",
    "_check_control_frame_type",
    "_check_request_or_push_frame_type",
    "_decode_headers",
    "_get_local_settings",
    "_handle_control_frame",
    "_handle_request_or_push_frame",
    "_init_connection",
    "_receive_stream_data",
    "_receive_stream_data_uni",
    "_receive_stop_sending",
    "_validate_settings",
)
"""Of H3Connection: overridden or called."""

H3_ATTRIBUTES: Final = (
    "_blocked_streams",
    "_decoder",
    "_is_client",
    "_local_control_stream_id",
    "_max_push_id",
    "_max_table_capacity",
    "_peer_control_stream_id",
    "_peer_decoder_stream_id",
    "_peer_encoder_stream_id",
    "_quic_logger",
    "_received_settings",
    "_settings_received",
    "_stream",
)
"""Of an H3Connection: read or set."""


def unsent_bytes(stream: QuicStream) -> int:
    """Return the bytes that were written to a stream and are not acknowledged."""
    return stream.sender._buffer_stop - stream.sender._buffer_start


def sending_is_over(stream: QuicStream) -> bool:
    """Whether nothing more may be written: FIN written, or reset."""
    return stream.sender._buffer_fin is not None or stream.sender._reset_error_code is not None


def has_sendable(stream: QuicStream, limit_bytes: int) -> bool:
    """Whether bytes below a flow-control limit, or a lone FIN, wait to be sent."""
    pending = stream.sender._pending
    if len(pending):
        return pending[0].start < limit_bytes
    return stream.sender._pending_eof


def probe_timeout_count(recovery: QuicPacketRecovery) -> int:
    """Return how many probe timeouts followed each other without an acknowledgement."""
    return recovery._pto_count


def congestion_control(recovery: QuicPacketRecovery) -> "QuicCongestionControl":
    """Return the congestion controller."""
    return recovery._cc


def replace_pacer(recovery: QuicPacketRecovery, pacer: "QuicPacketPacer") -> None:
    """Put our pacer in."""
    recovery._pacer = pacer


def set_datagram_size(recovery: QuicPacketRecovery, size_bytes: int) -> None:
    """Tell pacing and congestion control the size of a full packet."""
    recovery._pacer._max_datagram_size = size_bytes
    setattr(recovery._cc, "_max_datagram_size", size_bytes)  # noqa: B010 - every subclass has it


def packet_in_progress(builder: "QuicPacketBuilder") -> "QuicSentPacket":
    """Return the record of the packet that is being built."""
    packet = builder._packet
    assert packet is not None  # noqa: S101 - the caller has begun one
    return packet
