"""Owns pairs of connections that live the same life: one by the fast path, one by aioquic alone.

Everything random is drawn from a seed, each world from a generator of its own, and both ends are
given the same 1-RTT keys after the handshake. So what the ends of both worlds send must be equal
byte for byte, and so must be all that they believe.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aioquic import tls
from aioquic.quic.connection import QuicConnection
from aioquic.tls import CipherSuite, Epoch

from masque_relay.quic.adapter import QuicAdapter
from masque_relay.quic.fastpath_native import AcceleratedConnection
from masque_relay.quic.limits import FastPath, QuicLimits
from masque_relay.quic.outgoing import Address
from tests.support.quic_pair import (
    SERVER,
    Pair,
    RecordingApplication,
    pair_with_limits,
    server_identity,
)

SECRET_BYTES = {CipherSuite.AES_256_GCM_SHA384: 48}


def engine(adapter: QuicAdapter) -> QuicConnection:
    """Return aioquic's connection."""
    return adapter._connection


def force_keys(pair: Pair, cipher_suite: CipherSuite) -> None:
    """Give both ends known 1-RTT keys, as if the handshake had ended in them."""
    size = SECRET_BYTES.get(cipher_suite, 32)
    client, server = (engine(end)._cryptos[Epoch.ONE_RTT] for end in (pair.client, pair.server))
    for sender, receiver, byte in ((client, server, 1), (server, client, 2)):
        for context in (sender.send, receiver.recv):
            context.setup(cipher_suite=cipher_suite, secret=bytes([byte]) * size, version=1)
    for end in (pair.client, pair.server):
        connection = engine(end)
        if isinstance(connection, AcceleratedConnection):
            connection.take_first_keys()


@dataclass
class World:
    """One pair, its network and its source of randomness."""

    fast_path: FastPath
    seed: int
    cipher_suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256
    limits: QuicLimits = field(default_factory=QuicLimits)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.network = random.Random(self.seed + 1)
        self.sent: list[bytes] = []
        """Everything that left since it was last looked at, in order."""
        self.loss = 0.0
        self.mischief = False
        self._under_way: dict[str, list[bytes]] = {"up": [], "down": []}
        self._seen: list[bytes] = []
        server_identity()  # made once, out of nobody's dice
        with self.dice():
            self.pair = pair_with_limits(server=self._limits(), client=self._limits())
            self.pair.settle()
        force_keys(self.pair, self.cipher_suite)
        for end in (self.pair.client, self.pair.server):
            # An ECDSA signature is a byte longer or shorter from time to time.
            connection = engine(end)
            recovery = connection._loss
            recovery._cc.congestion_window = 20_000
            recovery._pacer.update_rate(congestion_window=20_000, smoothed_rtt=0.002)
            recovery._pacer.bucket_time = 0.0
            connection._network_paths[0].bytes_sent = 0
            connection._network_paths[0].bytes_received = 0
            connection._close_at = self.pair.now + 120.0

    def _limits(self) -> QuicLimits:
        return QuicLimits(fast_path=self.fast_path)

    @contextmanager
    def dice(self) -> Iterator[None]:
        """Let aioquic draw from this world's randomness."""
        before = os.urandom
        os.urandom = self._random.randbytes
        try:
            yield
        finally:
            os.urandom = before

    @property
    def ends(self) -> tuple[QuicAdapter, QuicAdapter]:
        """Client and server."""
        return self.pair.client, self.pair.server

    def turn(self, seconds: float) -> None:
        """Let time pass, then carry what each end has to say; some of it another day."""
        pair = self.pair
        pair.now += seconds
        with self.dice():
            self._carry("up", pair.client, pair.server, pair.client_address)
            self._carry("down", pair.server, pair.client, SERVER)

    def _carry(self, way: str, sender: QuicAdapter, receiver: QuicAdapter, source: Address) -> None:
        now = self.pair.now
        sender.handle_timer(now)
        leaving = [packet for group, _ in sender.packets_to_send(now) for packet in group]
        self.sent += leaving
        arriving = self._under_way[way] + leaving
        self._under_way[way] = []
        batch: list[bytes] = []
        for packet in arriving:
            fate = self.network.random()
            if fate < self.loss:
                continue
            if fate > 1 - self.loss / 2:
                self._under_way[way].append(packet)  # late, and so out of order
                continue
            batch.append(packet)
            if self.mischief:
                batch += self._mischief(packet)
        if self.loss and self.network.random() < self.loss:
            self.network.shuffle(batch)
        if batch:
            receiver.receive_packets(batch, source, now)
        self._seen = (self._seen + leaving)[-50:]

    def _mischief(self, packet: bytes) -> list[bytes]:
        """Return what somebody on the path may add."""
        dice = self.network
        what = dice.randrange(30)
        if what == 0:
            return [packet]
        if what == 1 and self._seen:
            return [dice.choice(self._seen)]  # replayed, perhaps to the wrong end
        if what in (2, 3):
            at = dice.randrange(len(packet))
            return [packet[:at] + bytes([packet[at] ^ 1 << dice.randrange(8)]) + packet[at + 1 :]]
        if what == 4:
            return [packet[: dice.randrange(len(packet))]]
        if what == 5:
            return [packet[:9] + dice.randbytes(dice.randrange(60))]
        return []

    def calls(self) -> Iterator[tuple[RecordingApplication, QuicAdapter]]:
        """What applications saw."""
        for end in self.ends:
            if isinstance(end.application, RecordingApplication):
                yield end.application, end


def belief(adapter: QuicAdapter, now: float) -> dict[str, object]:
    """Return everything that a connection believes and that anybody could observe."""
    connection = engine(adapter)
    space = connection._spaces[Epoch.ONE_RTT]
    recovery = connection._loss
    controller = recovery._cc
    window = space.received_packets
    crypto = connection._cryptos[Epoch.ONE_RTT]
    highest = space.largest_received_packet
    pacer = recovery._pacer
    # It is filled when somebody looks; what it would be now is what counts.
    bucket = pacer.bucket_time + now - pacer.evaluation_time
    return {
        "packet number": connection._packet_number,
        "state": connection._state,
        "close": connection._close_event,
        "close at": connection._close_at,
        "is closing": connection._close_pending,
        "idle rule": connection._ack_eliciting_sent_since_receipt,
        "ids": (connection.host_cid, connection._peer_cid.cid, len(connection._host_cids)),
        "spin": (connection._spin_bit, connection._spin_highest_pn),
        "expected": space.expected_packet_number,
        "largest received": (highest, space.largest_received_time),
        "ack ranges": list(space.ack_queue),
        "ack at": space.ack_at,
        "seen": [n in window for n in range(max(0, highest - 300), highest + 5)],
        "sent": [
            (n, p.sent_time, p.sent_bytes, p.in_flight, p.is_ack_eliciting)
            for n, p in space.sent_packets.items()
        ],
        "eliciting": space.ack_eliciting_in_flight,
        "largest acked": space.largest_acked_packet,
        "loss time": space.loss_time,
        "timeouts": recovery._pto_count,
        "round trip": (
            recovery._rtt_latest,
            recovery._rtt_min,
            recovery._rtt_smoothed,
            recovery._rtt_variance,
        ),
        "last eliciting": recovery._time_of_last_sent_ack_eliciting_packet,
        "window": (controller.congestion_window, controller.bytes_in_flight, controller.ssthresh),
        "pacing": (pacer.packet_time, round(min(bucket, pacer.bucket_max), 9)),
        "paths": [
            (p.addr, p.is_validated, p.bytes_sent, p.bytes_received, len(p.remote_challenges))
            for p in connection._network_paths
        ],
        "phases": (crypto.key_phase, crypto.recv.secret, crypto.send.secret),
        "size": connection._max_datagram_size,
        "waiting": list(connection._datagrams_pending),
        "streams": {
            i: (s.receiver.highest_offset, s.sender.highest_offset, s.is_finished)
            for i, s in connection._streams.items()
        },
        "credit": (connection._local_max_data.value, connection._remote_max_data_used),
    }


Step = Callable[[World], None]


def differences(one: World, other: World) -> list[str]:
    """Return where two worlds differ; empty when they are the same."""
    found: list[str] = []
    if one.sent != other.sent:
        found.append(f"packets: {list(map(len, one.sent))} != {list(map(len, other.sent))}")
    for name, a, b in zip(("client", "server"), one.ends, other.ends, strict=True):
        first, second = belief(a, one.pair.now), belief(b, other.pair.now)
        found += [
            f"{name}, {key}: {first[key]!r} != {second[key]!r}"
            for key in first
            if first[key] != second[key]
        ]
    drops = [
        [
            (c.packets_forged, c.packets_duplicate)
            for c in (w.pair.client_counters, w.pair.server_counters)
        ]
        for w in (one, other)
    ]
    if drops[0] != drops[1]:
        found.append(f"dropped packets: {drops[0]} != {drops[1]}")
    for (a, end), (b, _) in zip(one.calls(), other.calls(), strict=True):
        if (a.datagrams, a.streams, a.lost) != (b.datagrams, b.streams, b.lost):
            found.append(f"what the application saw, client: {end.is_client}")
    one.sent.clear()
    other.sent.clear()
    return found


__all__ = ["World", "belief", "differences", "engine", "force_keys", "tls"]
