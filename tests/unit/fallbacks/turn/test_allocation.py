"""The parts of an allocation that expire by themselves."""

from tests.support.turn_rig import OTHER_PEER, PEER, TurnRig


def test_parts_expire_one_by_one(rig: TurnRig) -> None:
    client = rig.client()
    client.allocate()
    client.bind_channel(0x4000, PEER)
    rig.advance(200)
    client.permit(OTHER_PEER)
    rig.advance(150)
    assert set(client.allocation.permissions) == {"8.8.4.4"}
    assert [channel.number for channel in client.allocation.channels.values()] == [0x4000]


def test_secrets_are_not_shown(rig: TurnRig) -> None:
    client = rig.client()
    client.allocate()
    shown = repr(client.allocation)
    assert repr(client.allocation.key) not in shown
