"""Ghostwire's frames as values."""

import pytest

from masque_relay.wire.ghostwire import FRAME_TYPES, Auth, Binding, ChannelKind, FrameType


def test_token_of_auth_is_in_no_text() -> None:
    auth = Auth(
        peer_id=bytes(32), binding=Binding.EXPORTER, signature=bytes(64), token="secret-token"
    )

    assert "secret-token" not in f"{auth} {auth!r}"


@pytest.mark.parametrize(
    ("kind", "to_peer", "stream"),
    [
        (ChannelKind.DATAGRAMS, True, False),
        (ChannelKind.STREAM, True, True),
        (ChannelKind.UDP, False, False),
        (ChannelKind.TCP, False, True),
    ],
)
def test_kinds_say_where_they_lead(kind: ChannelKind, to_peer: bool, stream: bool) -> None:
    assert (kind.is_to_peer, kind.is_stream) == (to_peer, stream)


def test_datagram_is_the_capsule_of_rfc_9297_and_the_others_lie_together() -> None:
    assert FrameType.DATAGRAM == 0
    assert {kind - kind % 0x100 for kind in FRAME_TYPES - {FrameType.DATAGRAM}} == {0x475700}
