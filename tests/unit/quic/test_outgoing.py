"""Packets leave in runs of one destination, and in order."""

import pytest

from masque_relay.quic.outgoing import Address, by_destination

HERE: Address = ("192.0.2.1", 443)
THERE: Address = ("192.0.2.2", 443)


@pytest.mark.parametrize(
    ("packets", "runs"),
    [
        ([], []),
        ([(b"1", HERE)], [([b"1"], HERE)]),
        ([(b"1", HERE), (b"2", HERE)], [([b"1", b"2"], HERE)]),
        (
            [(b"1", HERE), (b"2", THERE), (b"3", HERE)],
            [([b"1"], HERE), ([b"2"], THERE), ([b"3"], HERE)],
        ),
    ],
)
def test_neighbours_with_one_destination_stay_together(
    packets: list[tuple[bytes, Address]], runs: list[tuple[list[bytes], Address]]
) -> None:
    assert by_destination(packets) == runs
