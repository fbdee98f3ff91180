"""Owns the measurement of stream data over QUIC: ``python -m tests.bench.streams``.

Both ends in one process and no socket between them: CPU microseconds per packet that the sender and
the receiver of bulk data spend, with aioquic alone and by the fast path. Medians of three.
"""

import statistics
import sys
from time import process_time

from masque_relay.quic.accelerator import is_compiled
from masque_relay.quic.limits import FastPath, QuicLimits
from tests.bench.report import machine
from tests.support.quic_pair import SERVER, RecordingApplication, pair_with_limits

REPETITIONS = 3
PAYLOAD_BYTES = 12_000_000
QUEUE_BYTES = 262_144
WAYS = {
    "aioquic alone": (FastPath.OFF, False),
    "fast path": (FastPath.ON, False),
    "accelerator": (FastPath.ON, True),
}
STREAMS = (1, 100)


def measure(mode: FastPath, stream_count: int, *, accelerator: bool) -> tuple[float, float]:
    """Return what a packet of stream data costs the server, which sends, and the client, in us."""
    limits = QuicLimits(
        fast_path=mode,
        accelerator=accelerator,
        stream_window_bytes=1 << 20,
        connection_window_bytes=8 << 20,
    )
    pair = pair_with_limits(server=limits, client=limits)
    pair.settle()
    share_bytes = PAYLOAD_BYTES // stream_count
    left_bytes = dict.fromkeys(range(0, 4 * stream_count, 4), share_bytes)
    for stream_id in left_bytes:
        pair.client.send_stream_data(stream_id, b"?", end_stream=False)
    pair.settle()
    application = pair.client_app
    assert isinstance(application, RecordingApplication)
    server_s = client_s = 0.0
    packet_count = 0
    while sum(map(len, application.streams.values())) < share_bytes * stream_count:
        begin_s = process_time()
        for stream_id, left in left_bytes.items():
            if left and pair.server.unsent_stream_bytes(stream_id) < QUEUE_BYTES:
                data = bytes(min(left, 65_536))
                pair.server.send_stream_data(stream_id, data, end_stream=False)
                left_bytes[stream_id] -= len(data)
        pair.server.handle_timer(pair.now)
        down = [p for group, _ in pair.server.packets_to_send(pair.now) for p in group]
        sent_s = process_time()
        if down:
            pair.client.receive_packets(down, SERVER, pair.now)
        pair.client.handle_timer(pair.now)
        up = [p for group, _ in pair.client.packets_to_send(pair.now) for p in group]
        read_s = process_time()
        if up:
            pair.server.receive_packets(up, pair.client_address, pair.now)
        server_s += sent_s - begin_s + process_time() - read_s
        client_s += read_s - sent_s
        packet_count += len(down)
        pair.now += 0.001
    return server_s / packet_count * 1e6, client_s / packet_count * 1e6


def main() -> None:
    """Measure and print a table."""
    ways = {name: way for name, way in WAYS.items() if is_compiled() or not way[1]}
    sys.stdout.write(f"{machine()}\n\n| us per packet | {' | '.join(ways)} |\n|---|")
    sys.stdout.write("---|" * len(ways) + "\n")
    for stream_count in STREAMS:
        samples = {
            name: [measure(mode, stream_count, accelerator=accelerator) for _ in range(REPETITIONS)]
            for name, (mode, accelerator) in ways.items()
        }
        for index, who in enumerate(("sender", "receiver")):
            medians = [statistics.median(s[index] for s in samples[name]) for name in ways]
            cells = " | ".join(f"{median:.1f}" for median in medians)
            sys.stdout.write(f"| {who}, streams: {stream_count} | {cells} |\n")


if __name__ == "__main__":
    main()
