"""Channels to hosts whose peer does not wait: flow and permission go back at once."""

from collections.abc import Sequence
from typing import Any

import pytest

from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ghostwire_host import HostTcpEnd, HostUdpEnd
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode
from tests.support.ghostwire_world import FakeLease, World


class Flow:
    """A flow that only knows whether it is over."""

    def __init__(self) -> None:
        self.is_over = False

    def close(self) -> None:
        self.is_over = True

    abort = close

    def send_batch(self, payloads: Sequence[bytes]) -> None:
        """Take datagrams."""

    def send(self, data: bytes) -> None:
        """Take bytes."""

    unsent_bytes = 0

    def pause(self) -> None:
        """Read nothing."""

    def resume(self) -> None:
        """Read."""


def end_of(kind: ChannelKind, channel: Any, released: list[EndReason]) -> Any:
    lease: Any = FakeLease(limits=TunnelLimits(idle_timeout_s=30.0))

    def release(reason: EndReason, detail: str) -> None:
        del detail
        released.append(reason)

    if kind is ChannelKind.UDP:
        return HostUdpEnd(channel, lease, release)
    return HostTcpEnd(channel, lease, release, window_bytes=1_000)


@pytest.mark.parametrize("kind", [ChannelKind.UDP, ChannelKind.TCP])
def test_flow_that_comes_after_the_peer_closed_the_channel_ends_with_its_lease(
    kind: ChannelKind,
) -> None:
    world = World()
    alice = world.peer("alice")
    recorder = alice.call(b"", kind, host="host.example", port=53)
    world.settle()
    ((_, channel, _),) = world.hosts
    released: list[EndReason] = []
    end, flow = end_of(kind, channel, released), Flow()
    assert recorder.channel is not None

    recorder.channel.close()
    world.settle()
    end.bind_flow(flow)

    assert flow.is_over
    assert released == [EndReason.PEER_CLOSED]
    assert not recorder.is_open


@pytest.mark.parametrize("kind", [ChannelKind.UDP, ChannelKind.TCP])
def test_flow_that_comes_after_the_session_was_kicked_ends_with_its_lease(
    kind: ChannelKind,
) -> None:
    world = World()
    alice = world.peer("alice")
    alice.call(b"", kind, host="host.example", port=53)
    world.settle()
    ((_, channel, _),) = world.hosts
    released: list[EndReason] = []
    end, flow = end_of(kind, channel, released), Flow()

    alice.at_relay.close(EndReason.KICKED)
    end.bind_flow(flow)

    assert flow.is_over
    assert released == [EndReason.PEER_CLOSED]
    assert channel.is_closed


@pytest.mark.parametrize("kind", [ChannelKind.UDP, ChannelKind.TCP])
def test_channel_that_nobody_uses_ends_when_the_policy_says(kind: ChannelKind) -> None:
    world = World()
    alice = world.peer("alice")
    recorder = alice.call(b"", kind, host="host.example", port=53)
    world.settle()
    ((_, channel, _),) = world.hosts
    released: list[EndReason] = []
    end, flow = end_of(kind, channel, released), Flow()
    end.bind_flow(flow)
    world.settle()

    def pass_time(*, from_host: bool = False, from_peer: bool = False) -> None:
        if from_host:
            (end.on_batch([b"x"]) if kind is ChannelKind.UDP else end.on_bytes(b"x"))
        if from_peer:
            (end.deliver([b"x"]) if kind is ChannelKind.UDP else end.deliver_data(b"x"))
        world.now_s += 20
        end.on_tick(world.now_s)
        world.settle()

    pass_time()
    pass_time(from_host=True)
    pass_time(from_peer=True)
    pass_time(from_host=True)
    assert not released
    pass_time()
    assert not flow.is_over
    pass_time()

    assert flow.is_over
    assert released == [EndReason.IDLE]
    assert recorder.closed == (ErrorCode.IDLE, "")
