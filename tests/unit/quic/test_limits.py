"""The bounds of the endpoint and its connections."""

import pytest

from masque_relay.quic.limits import QuicLimits


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initial_datagram_bytes", 1_199),
        ("initial_datagram_bytes", 1_473),
        ("max_datagram_bytes", 65_528),
    ],
)
def test_packet_size_with_which_nothing_could_work_is_refused_by_name(
    name: str, value: int
) -> None:
    with pytest.raises(ValueError, match=name):
        QuicLimits(**{name: value})  # type: ignore[arg-type]  # sizes only


def test_answers_to_strangers_may_be_turned_off() -> None:
    QuicLimits(stateless_resets_per_s=0, version_negotiations_per_s=0, refusals_per_s=0)
