"""Owns HardenedQuicConnection: aioquic's connection with what the relay needs besides bounds.

What stock aioquic 1.7.2 lacks or gets wrong is mended here and in ``credit.py``, by overriding its
own methods. Why each one is needed is in ``docs/decisions/0003-aioquic.md``, which private names it
takes is in ``aioquic_private.py``, and ``tests/security/test_aioquic_traps.py`` runs the attacks.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    Limit,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    pull_ack_frame,
    pull_quic_transport_parameters,
)
from aioquic.quic.packet_builder import (
    QuicDeliveryState,
    QuicPacketBuilder,
)
from aioquic.quic.stream import QuicStream

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic import aioquic_private
from masque_relay.quic.aioquic_private import Buffer
from masque_relay.quic.congestion import RelayPacer, SeesSizes
from masque_relay.quic.dropped_packets import CountingLogger, CountingWindow
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.outgoing import Address, Run, by_destination
from masque_relay.quic.path_mtu import BLACK_HOLE_LOSSES, PathMtu
from masque_relay.quic.quiet_turns import QuietTurnsConnection
from masque_relay.quic.reset import RESET_TOKEN_BYTES, is_stateless_reset
from masque_relay.quic.tls import (
    CertificateStore,
    ClientCertificates,
    Exporter,
    HardenedTlsContext,
    harden,
)

MAX_HOST_CONNECTION_IDS = 4
"""How many connection IDs a peer holds of us at once: enough for moving to another path (RFC 9000
section 5.1.1), and each is an entry in the endpoint's table."""
KEY_UPDATE_PACKETS = 1 << 22
"""Half of what AES-GCM may protect with one key (RFC 9001 section 6.6)."""
MIN_PROBE_TIMEOUT_S = 0.25
"""For a path MTU probe, where three probe timeouts of the connection are less."""
_MAX_UDP_PAYLOAD_BYTES = 65_527

# aioquic logs each connection's life and each fault of a peer; who wants to read it sets the level.
_AIOQUIC_LOG = logging.getLogger("masque_relay.quic.aioquic")
_AIOQUIC_LOG.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPolicy:
    """What a connection is given besides aioquic's configuration."""

    limits: QuicLimits = field(default_factory=QuicLimits)
    certificates: CertificateStore | None = None
    """Server only."""
    client_certificates: ClientCertificates = ClientCertificates.IGNORED
    client_ca_pem: bytes | None = None
    new_connection_id: Callable[[], bytes] | None = None
    reset_token_for: Callable[[bytes], bytes] | None = None


class HardenedQuicConnection(QuietTurnsConnection):
    """A QuicConnection that a stranger cannot fill, and that does what the relay needs.

    ``receive_datagram`` is aioquic's. Use :meth:`flush` in place of ``datagrams_to_send``,
    :meth:`queue_datagrams` in place of ``send_datagram_frame``, :meth:`take_events` in place of
    ``next_event``.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        policy: ConnectionPolicy,
        counters: QuicCounters,
        peer_address: Address,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        # No ticket handlers: no session tickets, so neither early data nor the resumption with
        # client certificates that never completes.
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.init_credit()
        self.init_turns()
        self.init_datagrams(policy.limits.datagram_queue_count, counters)
        self.acknowledgements_seen = False
        """Set by an ACK frame; whoever reads it clears it."""
        self.may_have_moved = False
        """Set by each packet that aioquic handled, for only those move a path; cleared as above."""
        self._policy = policy
        self._exporter: Exporter | None = None
        self._key_in_use: object = None
        self._key_first_packet = 0
        self._path_host = peer_address[0]
        self._path_epoch = 0
        self._path_mtu = PathMtu(
            initial_bytes=configuration.max_datagram_size,
            ceiling_bytes=policy.limits.max_datagram_bytes,
            is_ipv6=":" in peer_address[0],
        )
        self._flushed_at = 0.0
        self._logger = CountingLogger(
            _AIOQUIC_LOG, self.original_destination_connection_id.hex(), counters
        )
        aioquic_private.replace_pacer(
            self._loss, RelayPacer(max_datagram_size=self._max_datagram_size)
        )
        _set_limit(self._local_max_streams_bidi, policy.limits.max_bidirectional_streams)
        _set_limit(self._local_max_streams_uni, policy.limits.max_unidirectional_streams)
        self._use_own_connection_id()
        if retry_source_connection_id is not None:
            # RFC 9000 section 8.1.2: the client returned our token, so the address is its own.
            self._network_paths = [QuicNetworkPath(peer_address, is_validated=True)]

    # -- state ------------------------------------------------------------------------------------

    @property
    def tls_context(self) -> HardenedTlsContext | None:
        """The TLS engine; None before the first packet."""
        context = getattr(self, "tls", None)
        return context if isinstance(context, HardenedTlsContext) else None

    @property
    def close_event(self) -> ConnectionTerminated | None:
        """Why the connection is over or about to be; None while it lives."""
        return self._close_event

    @property
    def is_close_pending(self) -> bool:
        """The next flush sends CONNECTION_CLOSE."""
        return self._close_pending

    @property
    def is_over(self) -> bool:
        """Nothing is understood any more: closing, draining or terminated."""
        # Most of the time it is not, and the set hashes an enum's member to find out.
        state = self._state
        return state is not QuicConnectionState.CONNECTED and state in END_STATES

    @property
    def is_terminated(self) -> bool:
        """The draining time is over too."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def host_connection_ids(self) -> tuple[bytes, ...]:
        """What the peer may address us by."""
        return tuple(connection_id.cid for connection_id in self._host_cids)

    @property
    def qlog_trace(self) -> QuicLoggerTrace | None:
        """The connection's trace while it lives; None without qlog."""
        return self._quic_logger

    @property
    def path_mtu_bytes(self) -> int:
        """The UDP payload that ordinary packets may have now."""
        return self._max_datagram_size

    def stream(self, stream_id: int) -> QuicStream | None:
        """Return aioquic's record of a stream while it lives."""
        return self._streams.get(stream_id)

    @property
    def has_news(self) -> bool:
        """Whether there are events, or the connection is over or about to be."""
        return bool(self._events) or self._close_event is not None

    def take_events(self) -> list[QuicEvent | bytes]:
        """Return and forget what happened; the payload of a DATAGRAM frame is bare bytes."""
        if not self._events:
            return []
        events: list[QuicEvent | bytes] = list(self._events)
        self._events.clear()
        return events

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return exported keying material (RFC 8446 section 7.5).

        Raises:
            RuntimeError: the handshake is not far enough.
        """
        if self._exporter is None:
            msg = "there is no exporter secret before the handshake is complete"
            raise RuntimeError(msg)
        return self._exporter.export(label, context, length)

    # -- connection IDs and resets ----------------------------------------------------------------

    def resets_us(self, datagram: bytes) -> bool:
        """Whether this is a stateless reset of the peer's (RFC 9000 section 10.3.1)."""
        if not datagram or datagram[0] & 0x80:
            return False
        destination_cid = datagram[1 : 1 + self._configuration.connection_id_length]
        if any(connection_id.cid == destination_cid for connection_id in self._host_cids):
            return False
        known = (self._peer_cid, *self._peer_cid_available)
        return is_stateless_reset(
            datagram, [c.stateless_reset_token for c in known if c.stateless_reset_token]
        )

    def abandon(self, error_code: int, reason: str) -> None:
        """End at once, without a packet."""
        if self._state is QuicConnectionState.TERMINATED:
            return
        if self._close_event is None:
            self._close_event = ConnectionTerminated(
                error_code=error_code, frame_type=QuicFrameType.PADDING, reason_phrase=reason
            )
        self._close_pending = False
        self._close_end()

    def _use_own_connection_id(self) -> None:
        first = self._host_cids[0]
        first.cid = self._new_connection_id()
        if not self._is_client:
            first.stateless_reset_token = self._reset_token(first.cid)
        self.host_cid = first.cid
        self._local_initial_source_connection_id = first.cid

    def _replenish_connection_ids(self) -> None:
        wanted = min(MAX_HOST_CONNECTION_IDS, self._remote_active_connection_id_limit)
        while len(self._host_cids) < wanted:
            cid = self._new_connection_id()
            self._host_cids.append(
                QuicConnectionId(
                    cid=cid,
                    sequence_number=self._host_cid_seq,
                    stateless_reset_token=self._reset_token(cid),
                )
            )
            self._host_cid_seq += 1

    def _new_connection_id(self) -> bytes:
        make = self._policy.new_connection_id
        return make() if make is not None else os.urandom(self._configuration.connection_id_length)

    def _reset_token(self, cid: bytes) -> bytes:
        token_for = self._policy.reset_token_for
        return token_for(cid) if token_for is not None else os.urandom(RESET_TOKEN_BYTES)

    # -- TLS --------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._space.received_packets = CountingWindow(self._counters)
        harden(
            self.tls,
            certificates=self._policy.certificates,
            client_certificates=self._policy.client_certificates,
            client_ca_pem=self._policy.client_ca_pem,
        )

    def _update_traffic_key(
        self,
        direction: tls.Direction,
        epoch: tls.Epoch,
        cipher_suite: tls.CipherSuite,
        secret: bytes,
    ) -> None:
        # The first 1-RTT key of either side comes when the transcript ends at the server's
        # Finished, which is where RFC 8446 section 7.1 derives the exporter secret.
        first = tls.Direction.DECRYPT if self._is_client else tls.Direction.ENCRYPT
        if epoch is tls.Epoch.ONE_RTT and direction is first and self.tls.key_schedule is not None:
            self._exporter = Exporter(self.tls.key_schedule)
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    def _parse_transport_parameters(
        self,
        data: bytes,
        from_session_ticket: bool = False,  # noqa: FBT001, FBT002 - aioquic's own signature
    ) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        parameters = pull_quic_transport_parameters(Buffer(data=data))
        if parameters.ack_delay_exponent is not None:
            # aioquic 1.7.2 assigns its own default to itself here.
            self._remote_ack_delay_exponent = parameters.ack_delay_exponent
        self._path_mtu.limit(parameters.max_udp_payload_size or _MAX_UDP_PAYLOAD_BYTES)
        self._apply_path_mtu()

    def _update_keys(self) -> None:
        send = self._cryptos[tls.Epoch.ONE_RTT].send
        if send.aead is not self._key_in_use:
            self._key_in_use = send.aead
            self._key_first_packet = self._packet_number
        elif (
            self._packet_number - self._key_first_packet >= KEY_UPDATE_PACKETS
            # RFC 9001 section 6.1: not before a packet of the current keys is acknowledged.
            and self._spaces[tls.Epoch.ONE_RTT].largest_acked_packet >= self._key_first_packet
        ):
            self.request_key_update()

    # -- streams -----------------------------------------------------------------------------------

    def _write_reset_stream_frame(self, builder: QuicPacketBuilder, stream: QuicStream) -> None:
        # aioquic resets even a stream that waits for MAX_STREAMS, which ends the connection.
        if not stream.is_blocked:
            super()._write_reset_stream_frame(builder=builder, stream=stream)

    def _write_stop_sending_frame(self, builder: QuicPacketBuilder, stream: QuicStream) -> None:
        if not stream.is_blocked:
            super()._write_stop_sending_frame(builder=builder, stream=stream)

    # -- path MTU ---------------------------------------------------------------------------------

    def _apply_path_mtu(self) -> None:
        size_bytes = self._path_mtu.current_bytes
        if size_bytes != self._max_datagram_size:
            self._max_datagram_size = size_bytes
            aioquic_private.set_datagram_size(self._loss, size_bytes)

    def _watch_path(self, now: float) -> None:
        host = self._network_paths[0].addr[0]
        if host != self._path_host:
            # Another address may be another path; another port is the same NAT.
            self._path_host = host
            self._path_epoch += 1
            self._path_mtu.restart()
        controller = aioquic_private.congestion_control(self._loss)
        timeouts = aioquic_private.probe_timeout_count(self._loss)
        if (
            isinstance(controller, SeesSizes) and controller.large_loss_events >= BLACK_HOLE_LOSSES
        ) or timeouts >= (BLACK_HOLE_LOSSES if self._handshake_complete else 2):
            self._path_mtu.black_hole_found(now)
            if isinstance(controller, SeesSizes):
                controller.large_loss_events = 0
        self._apply_path_mtu()

    def _probe_path(self, now: float) -> list[tuple[bytes, Address]]:
        path = self._network_paths[0]
        if not self._handshake_confirmed or not path.is_validated or self._state in END_STATES:
            return []
        size_bytes = self._path_mtu.next_probe_bytes(now)
        if size_bytes is None:
            return []
        if self._loss.congestion_window - self._loss.bytes_in_flight < size_bytes:
            return []
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size_bytes,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            quic_logger=self._quic_logger,
            spin_bit=self._spin_bit,
            version=self._version or 0,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
        builder.start_frame(
            QuicFrameType.PING,
            handler=self._on_path_probe_delivery,
            handler_args=(size_bytes, self._path_epoch),
        )
        padding_bytes = builder.remaining_buffer_space
        padding = builder.start_frame(QuicFrameType.PADDING, capacity=padding_bytes)
        padding.push_bytes(bytes(padding_bytes - 1))
        # RFC 9000 section 14.4: losing a probe is no sign of congestion. Neither in flight nor
        # ack-eliciting to our own recovery: it neither fills the window nor arms the timeout.
        packet = aioquic_private.packet_in_progress(builder)
        packet.in_flight = False
        packet.is_ack_eliciting = False
        timeout_s = max(3 * self._loss.get_probe_timeout(), MIN_PROBE_TIMEOUT_S)
        self._path_mtu.probe_sent(size_bytes, now + timeout_s)
        self._counters.path_mtu_probes_sent += 1
        return self._flush_builder(
            builder=builder, network_path=path, peer_cid=self._peer_cid.cid, now=now
        )

    def _on_path_probe_delivery(
        self, delivery: QuicDeliveryState, size_bytes: int, path_epoch: int
    ) -> None:
        if path_epoch != self._path_epoch:
            return
        if delivery is not QuicDeliveryState.ACKED:
            self._path_mtu.probe_lost(size_bytes, self._flushed_at)
        elif self._path_mtu.probe_acknowledged(size_bytes):
            self._counters.path_mtu_raised += 1
            self._apply_path_mtu()

    # -- time and output --------------------------------------------------------------------------

    def receive_batch(self, packets: Sequence[bytes], source: Address, now: float) -> None:
        """Take packets from one source, in order."""
        for packet in packets:
            self._receive_one(packet, source, now)

    def _receive_one(self, packet: bytes, source: Address, now: float) -> None:
        self._counters.packets_received_slow += 1
        self.may_have_moved = True
        if self._is_client and self.resets_us(packet):
            self.abandon(QuicErrorCode.NO_ERROR, "stateless reset")
            return
        self.receive_datagram(packet, source, now)

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self.acknowledgements_seen = True
        start = buf.tell()
        with contextlib.suppress(ValueError):  # aioquic says what is wrong with it
            ranges, _ = pull_ack_frame(buf)
            # All spaces draw from one counter.
            if ranges.bounds().stop > self._packet_number:
                raise QuicConnectionError(
                    error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                    frame_type=frame_type,
                    reason_phrase="an ACK of what was never sent",
                )
        buf.seek(start)
        super()._handle_ack_frame(context, frame_type, buf)

    def get_timer(self) -> float | None:
        """Return when handle_timer is due; None: never."""
        timer_at = super().get_timer()
        deadline = self._path_mtu.deadline_s
        if deadline is not None and timer_at is not None and self._state not in END_STATES:
            timer_at = min(timer_at, deadline)
        self._known_timer_at = timer_at
        return timer_at

    def handle_timer(self, now: float) -> None:
        """Do what time asks for."""
        self._is_stirred = True
        self._path_mtu.handle_timer(now)
        super().handle_timer(now)

    def flush(self, now: float) -> list[Run]:
        """Return the packets that may go now, in runs of one destination."""
        if not self._network_paths or self.is_over or self._has_nothing_to_say(now):
            return []
        self._flushed_at = now
        self._watch_path(now)
        self.prepare_datagrams()
        if self._handshake_confirmed:
            self._update_keys()
        packets = self.datagrams_to_send(now)
        self.count_sent_datagrams()
        self.forget_ended_streams()
        packets += self._probe_path(now)
        self._counters.packets_sent_slow += len(packets)
        self.note_flush()
        return by_destination(packets)


def _set_limit(limit: Limit, value: int) -> None:
    limit.value = value
    limit.sent = value
