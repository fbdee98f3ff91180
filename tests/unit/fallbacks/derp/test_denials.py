"""Every reason of the gate, and every end, has something that a DERP client understands."""

import pytest

from fallbacks.derp.denials import NOT_ADMITTED, frames_of_denial, frames_of_end
from fallbacks.derp.wire import FrameType
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from tests.support.derp_world import split_frames

COME_AGAIN = {
    DenyReason.TUNNEL_QUOTA,
    DenyReason.OPEN_RATE,
    DenyReason.BYTE_QUOTA,
    DenyReason.OVERLOADED,
    DenyReason.DRAINING,
}


@pytest.mark.parametrize("reason", DenyReason)
def test_every_reason_is_told_without_its_detail(reason: DenyReason) -> None:
    frames = split_frames(frames_of_denial(Denial(reason=reason, detail="secret")))
    assert frames[0][0] == FrameType.HEALTH
    assert b"secret" not in frames[0][1]
    if reason in COME_AGAIN:
        assert frames[1][0] == FrameType.RESTARTING
    else:
        assert frames == [(FrameType.HEALTH, NOT_ADMITTED.encode())]


def test_a_client_comes_again_when_the_gate_says() -> None:
    denial = Denial(reason=DenyReason.OVERLOADED, detail="", retry_after_s=7)
    assert split_frames(frames_of_denial(denial))[1][1][:4] == (7_000).to_bytes(4, "big")


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_is_told_in_whole_frames_or_not_at_all(reason: EndReason) -> None:
    frames = split_frames(frames_of_end(reason))
    assert all(number in {FrameType.HEALTH, FrameType.RESTARTING} for number, _ in frames)
    assert (reason is EndReason.DRAINED) == any(n == FrameType.RESTARTING for n, _ in frames)
