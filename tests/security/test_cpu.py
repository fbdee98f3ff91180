"""What strangers may make the relay compute: cheap packets that cost it dear.

No stopwatch: what is asserted is the size of the thing that a linear search goes through.
"""

import pytest
from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicErrorCode

from masque_relay.quic.credit import MAX_CRYPTO_GAPS
from masque_relay.quic.stream_receiver import gap_count
from tests.support.aioquic_relays import Attacker, OurRelay


def crypto_pieces(first: int, count: int) -> bytes:
    """Every other byte of the handshake data, a frame each."""
    return b"".join(
        b"\x06" + encode_uint_var(2 * number + 1) + b"\x01x"
        for number in range(first, first + count)
    )


@pytest.mark.parametrize(
    ("count", "closes"), [(MAX_CRYPTO_GAPS, False), (MAX_CRYPTO_GAPS + 1, True)]
)
def test_pieces_of_handshake_data_do_not_pile_up(count: int, *, closes: bool) -> None:
    attacker = Attacker(OurRelay)
    attacker.send_frames(crypto_pieces(0, count))
    attacker.settle(5)
    if closes:
        assert attacker.close_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
        return
    assert not attacker.is_closed
    stream = attacker.relay.quic._crypto_streams[tls.Epoch.ONE_RTT]
    assert gap_count(stream) == MAX_CRYPTO_GAPS
