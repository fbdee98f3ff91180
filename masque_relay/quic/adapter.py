"""Owns QuicAdapter: one aioquic connection made safe, batched, and bound to its application.

An endpoint feeds it batches of packets and takes batches back; the application protocol, chosen by
ALPN once the handshake is complete, sees :class:`masque_relay.quic.application.QuicTransport`.
Nothing here knows a socket, a task or a clock: time comes in as ``now`` (seconds, monotonic).

Batches go down whole: the connection below may take the fast path (``fastpath.py``) with them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address

from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import QuicCounters
from masque_relay.quic import aioquic_private
from masque_relay.quic.ack_policy import AckPolicyConnection
from masque_relay.quic.application import ApplicationFactory, QuicApplication
from masque_relay.quic.outgoing import Address, Run

INTERNAL_ERROR = int(QuicErrorCode.INTERNAL_ERROR)
NO_ERROR = int(QuicErrorCode.NO_ERROR)

_log = logging.getLogger(__name__)
_BUG = "bug in %s, connection %s closed"


class AdapterOwner:
    """What an adapter tells its endpoint; each method does nothing unless overridden.

    All calls come from inside a call into the adapter, except :meth:`adapter_dirty`.
    """

    def adapter_dirty(self, adapter: "QuicAdapter") -> None:
        """The application sent outside of a batch or a timer: call packets_to_send this loop turn.

        Called at most once until the next packets_to_send.
        """

    def connection_id_issued(self, adapter: "QuicAdapter", connection_id: bytes) -> None:
        """Route this ID to the adapter. The first one is in ``connection_ids`` from the start."""

    def connection_id_retired(self, adapter: "QuicAdapter", connection_id: bytes) -> None:
        """Route this ID no more."""

    def handshake_completed(self, adapter: "QuicAdapter") -> None:
        """The handshake is complete and the application exists."""

    def peer_moved(self, adapter: "QuicAdapter") -> None:
        """The connection goes on from another address of the peer."""

    def adapter_terminated(self, adapter: "QuicAdapter") -> None:
        """Nothing will be sent or understood any more: forget it and all its connection IDs."""


class QuicAdapter:
    """One QUIC connection: packets in, packets out, an application above. Implements QuicTransport.

    Made by ``connecting.py``. Of the counters it moves
    those of DATAGRAM frames, path MTU and migrations; the rest is the endpoint's.
    """

    def __init__(
        self,
        connection: AckPolicyConnection,
        *,
        applications: Mapping[str, ApplicationFactory],
        owner: AdapterOwner,
        counters: QuicCounters,
        peer_address: Address,
        server_name: str | None,
    ) -> None:
        self._connection = connection
        self._applications = applications
        self._application: QuicApplication | None = None
        self._owner = owner
        self._counters = counters
        self._peer_address = peer_address
        self._server_name = server_name
        self._is_client = connection.configuration.is_client
        self._alpn = ""
        self._peer_chain: tuple[bytes, ...] = ()
        self._is_in_call = False
        self._is_dirty = False
        self._has_failed = False
        self._is_lost = False
        self._is_terminated = False
        self._stopped: set[int] = set()
        self._datagrams: list[bytes] = []
        self._closing_packets: list[Run] = []
        self._packets_while_closing = 0
        self._closing_answers = 0
        self._handlers: dict[type, Callable[..., None]] = {
            StreamDataReceived: self._on_stream_data,
            StreamReset: self._on_stream_reset,
            StopSendingReceived: self._on_stop_sending,
            HandshakeCompleted: self._on_handshake_completed,
            ConnectionIdIssued: self._on_connection_id_issued,
            ConnectionIdRetired: self._on_connection_id_retired,
        }

    # -- for the endpoint -------------------------------------------------------------------------

    def receive_packets(self, packets: Sequence[bytes], source: Address, now: float) -> None:
        """Take a batch from one source, deliver what it holds, let the application answer.

        The caller flushes with :meth:`packets_to_send` afterwards; never raises.
        """
        connection = self._connection
        if connection.is_over:
            self._packets_while_closing += len(packets)
            return
        self._is_in_call = True
        try:
            connection.receive_batch(packets, source, now)
            connection.note_batch(len(packets), now)
        except Exception:  # noqa: BLE001 - a bug in the engine ends this connection only
            self._fail("the QUIC engine")
        self._deliver()
        self._is_in_call = False

    def packets_to_send(self, now: float) -> list[Run]:
        """Return what is due, grouped per destination in order (fit for one GSO send per run)."""
        connection = self._connection
        self._is_dirty = False
        if connection.is_over:
            return self._closing_answer()
        is_closing = connection.is_close_pending
        self._is_in_call = True
        try:
            packets = connection.flush(now)
        except Exception:  # noqa: BLE001 - a bug in the engine ends this connection only
            self._fail("the QUIC engine")
            connection.abandon(INTERNAL_ERROR, "internal error")
            packets = []
        if is_closing:
            self._closing_packets = packets
        if connection.has_news:
            # Connection IDs are issued, and the connection may be over, by sending.
            self._deliver()
        self._is_in_call = False
        return packets

    def quiet_timer(self, now: float) -> float | None:
        """Return :meth:`next_timer` if there is nothing to send before it; None: flush first."""
        timer_at = self._connection.quiet_timer(now)
        if timer_at is not None:
            self._is_dirty = False
        return timer_at

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` is due; None: never. Ask again after every other call."""
        return self._connection.early_timer()

    def handle_timer(self, now: float) -> None:
        """Do what time asks for; early calls are harmless. Flush afterwards."""
        timer_at = self._connection.get_timer()
        if timer_at is None or now < timer_at:
            return
        self._is_in_call = True
        try:
            self._connection.handle_timer(now)
        except Exception:  # noqa: BLE001 - a bug in the engine ends this connection only
            self._fail("the QUIC engine")
        self._deliver()
        self._is_in_call = False

    @property
    def connection_ids(self) -> tuple[bytes, ...]:
        """The connection IDs by which the peer may address us now."""
        return self._connection.host_connection_ids

    @property
    def is_closing(self) -> bool:
        """The connection is over, but its IDs must be routed here until it is terminated."""
        return self._connection.is_over and not self._connection.is_terminated

    @property
    def is_terminated(self) -> bool:
        """Nothing will happen any more."""
        return self._is_terminated

    @property
    def termination(self) -> tuple[int | None, str] | None:
        """Why the connection is over or about to be: error code and reason; None while it lives.

        The code is None where nothing was heard in time.
        """
        event = self._connection.close_event
        if event is None:
            return None
        is_timeout = event.reason_phrase == "Idle timeout" and event.error_code == INTERNAL_ERROR
        return None if is_timeout else event.error_code, event.reason_phrase

    @property
    def qlog_trace(self) -> QuicLoggerTrace | None:
        """Where the application protocol may log too; None without qlog."""
        return self._connection.qlog_trace

    @property
    def peer_address(self) -> Address:
        """Where packets go now."""
        return self._peer_address

    @property
    def path_mtu_bytes(self) -> int:
        """The UDP payload that path MTU discovery has arrived at."""
        return self._connection.path_mtu_bytes

    @property
    def uses_fast_path(self) -> bool:
        """Whether datagrams go past aioquic; asked once the handshake is complete."""
        return self._connection.uses_fast_path

    @property
    def uses_accelerator(self) -> bool:
        """Whether their packets go through compiled code; asked as above."""
        return self._connection.uses_accelerator

    @property
    def application(self) -> QuicApplication | None:
        """What ALPN chose; None before the handshake is complete."""
        return self._application

    def close_transport(self, error_code: int, reason: str) -> None:
        """Close with a transport error code (RFC 9000 section 20.1)."""
        self._connection.close(
            error_code=error_code, frame_type=QuicFrameType.PADDING, reason_phrase=reason
        )
        self._sent_something()

    def abandon(self, reason: str) -> None:
        """Forget the connection without a packet; the application learns that it is lost."""
        self._connection.abandon(NO_ERROR, reason)
        self._is_in_call = True
        self._deliver()
        self._is_in_call = False

    def send_ping(self) -> None:
        """Queue a PING, as a keep-alive or to probe the path."""
        self._connection.send_ping(0)
        self._sent_something()

    # -- QuicTransport ----------------------------------------------------------------------------

    @property
    def connection_id(self) -> str:
        """For logs: the original destination connection ID in hex."""
        return self._connection.original_destination_connection_id.hex()

    @property
    def is_client(self) -> bool:
        """Whether we opened it."""
        return self._is_client

    @property
    def peer(self) -> Endpoint:
        """The peer's current address; changes with migration."""
        host, port = self._peer_address
        return Endpoint(address=ip_address(host), port=port)

    @property
    def server_name(self) -> str | None:
        """SNI as the client sent it."""
        return self._server_name

    @property
    def alpn(self) -> str:
        """The negotiated protocol."""
        return self._alpn

    @property
    def peer_certificate_chain(self) -> tuple[bytes, ...]:
        """DER, leaf first; empty when the peer presented none."""
        return self._peer_chain

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """RFC 8446 section 7.5; equal at both ends."""
        return self._connection.export_keying_material(label, context, length)

    @property
    def max_datagram_payload_bytes(self) -> int:
        """The largest DATAGRAM frame payload that path and peer take now; 0: none."""
        return self._connection.max_datagram_payload_bytes

    @property
    def queued_datagrams(self) -> int:
        """DATAGRAM frames that wait for the congestion window."""
        return self._connection.queued_datagrams

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue a DATAGRAM frame ``prefix + payload`` each; return how many were queued."""
        if self._connection.close_event is not None:
            return 0
        queued = self._connection.queue_datagrams(prefix, payloads)
        if queued:
            self._sent_something()
        return queued

    def next_stream_id(self, *, unidirectional: bool) -> int:
        """The id that the next stream that we open will have."""
        return self._connection.get_next_available_stream_id(is_unidirectional=unidirectional)

    def send_stream_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Queue stream bytes. A stream that is already finished or reset ignores them."""
        stream = self._connection.stream(stream_id)
        if self._connection.close_event is not None or (
            stream is not None and aioquic_private.sending_is_over(stream)
        ):
            return
        try:
            self._connection.send_stream_data(stream_id, data, end_stream)
        except ValueError:
            return  # forgotten because it is finished, or not ours to send on
        self._sent_something()

    def unsent_stream_bytes(self, stream_id: int) -> int:
        """Bytes queued on a stream and not yet acknowledged."""
        stream = self._connection.stream(stream_id)
        return aioquic_private.unsent_bytes(stream) if stream is not None else 0

    def consume_stream_bytes(self, stream_id: int, byte_count: int) -> None:
        """Grant the peer credit for bytes that the application is done with."""
        if self._connection.consume(stream_id, byte_count):
            self._sent_something()

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """RESET_STREAM; ignored where our side is already over."""
        if self._connection.stream(stream_id) is None:
            return
        try:
            self._connection.reset_stream(stream_id, error_code)
        except ValueError:
            return
        self._sent_something()

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        """STOP_SENDING; ignored where the peer's side is already over."""
        stream = self._connection.stream(stream_id)
        if stream is None or stream_id in self._stopped:
            return
        self._connection.discard_stream(stream_id)
        if stream.receiver.is_finished:
            return
        self._stopped.add(stream_id)
        self._connection.stop_stream(stream_id, error_code)
        self._sent_something()

    def close(self, error_code: int, reason: str) -> None:
        """Close the connection with an application error code."""
        self._connection.close(error_code=error_code, reason_phrase=reason)
        self._sent_something()

    # -- events -----------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Hand over what has happened; DATAGRAM frames together, before a stream that ends."""
        connection = self._connection
        events = connection.take_events()
        for event in events:
            if type(event) is bytes:
                self._datagrams.append(event)
                continue
            handler = self._handlers.get(type(event))
            if handler is not None:
                handler(event)
        if self._datagrams:
            self._flush_datagrams()
        if connection.may_have_moved:
            connection.may_have_moved = False
            self._follow_peer()
        if connection.acknowledgements_seen:
            connection.acknowledgements_seen = False
            if self._application is not None:
                self._call(self._application.streams_writable)
        if connection.close_event is not None:
            self._report_end()

    def _flush_datagrams(self) -> None:
        if not self._datagrams:
            return
        datagrams, self._datagrams = self._datagrams, []
        self._counters.quic_datagrams_received += len(datagrams)
        if self._application is not None:
            self._call(self._application.datagrams_received, datagrams)

    def _on_stream_data(self, event: StreamDataReceived) -> None:
        stream_id, data, end_stream = event.stream_id, event.data, event.end_stream
        is_wanted = self._connection.note_delivered(stream_id, len(data), is_finished=end_stream)
        if self._application is None:
            return
        if not is_wanted:
            if not end_stream:
                return
            self._stopped.discard(stream_id)
            data = b""
        if end_stream:
            # What came before the end of a stream belongs to the stream.
            self._flush_datagrams()
        application = self._application
        self._call(application.stream_data_received, stream_id, data, end_stream=end_stream)

    def _on_stream_reset(self, event: StreamReset) -> None:
        self._connection.settle_reset_stream(event.stream_id)
        self._stopped.discard(event.stream_id)
        if self._application is not None:
            self._flush_datagrams()
            self._call(self._application.stream_reset_received, event.stream_id, event.error_code)

    def _on_stop_sending(self, event: StopSendingReceived) -> None:
        if self._application is not None:
            self._flush_datagrams()
            self._call(self._application.stop_sending_received, event.stream_id, event.error_code)

    def _on_handshake_completed(self, event: HandshakeCompleted) -> None:
        context = self._connection.tls_context
        if context is not None:
            self._peer_chain = context.peer_chain_der
            if not self._is_client:
                self._server_name = context.client_hello_server_name
        self._alpn = event.alpn_protocol or ""
        factory = self._applications.get(self._alpn)
        if factory is None:
            # TLS has agreed on one of ours already; this is for a peer without ALPN.
            self.close_transport(0x100 + 120, "no application protocol")
            return
        try:
            self._application = factory(self)
        except Exception:  # noqa: BLE001 - an application's bug ends this connection only
            self._fail(self._alpn)
            return
        self._owner.handshake_completed(self)

    def _on_connection_id_issued(self, event: ConnectionIdIssued) -> None:
        self._owner.connection_id_issued(self, event.connection_id)

    def _on_connection_id_retired(self, event: ConnectionIdRetired) -> None:
        self._owner.connection_id_retired(self, event.connection_id)

    def _follow_peer(self) -> None:
        address = self._connection.get_peer_address()
        if address is not None and address != self._peer_address:
            self._peer_address = address
            self._counters.migrations += 1
            self._owner.peer_moved(self)

    def _report_end(self) -> None:
        event = self._connection.close_event
        if not self._is_lost and event is not None:
            self._is_lost = True
            application, self._application = self._application, None
            if application is not None:
                try:
                    application.connection_lost(event.error_code, event.reason_phrase)
                except Exception:  # noqa: BLE001 - an application's bug ends this connection only
                    _log.exception(_BUG, self._alpn, self.connection_id)
        if self._connection.is_terminated and not self._is_terminated:
            self._is_terminated = True
            self._owner.adapter_terminated(self)

    def _call(self, method: Callable[..., None], *arguments: object, **named: object) -> None:
        if self._has_failed:
            return
        try:
            method(*arguments, **named)
        except Exception:  # noqa: BLE001 - an application's bug ends this connection only
            self._fail(self._alpn)

    def _fail(self, what: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            _log.exception(_BUG, what, self.connection_id)
            self._connection.close(
                error_code=INTERNAL_ERROR,
                frame_type=QuicFrameType.PADDING,
                reason_phrase="internal error",
            )

    def _sent_something(self) -> None:
        if not self._is_in_call and not self._is_dirty:
            self._is_dirty = True
            self._owner.adapter_dirty(self)

    def _closing_answer(self) -> list[Run]:
        # RFC 9000 section 10.2.1: answer packets with CONNECTION_CLOSE again, ever more rarely.
        if self._packets_while_closing.bit_length() <= self._closing_answers:
            return []
        self._closing_answers = self._packets_while_closing.bit_length()
        return self._closing_packets
