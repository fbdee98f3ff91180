"""Probes: only who has the key can make one, and nothing else is taken for one."""

from masque_relay.client.mesh.path_probe import (
    PING,
    PONG,
    PROBE_BYTES,
    Probe,
    decode_probe,
    is_authentic,
)

KEY, OTHER = bytes(32), bytes(31) + b"\1"


def test_probe_comes_back_and_is_authentic_with_its_key_only() -> None:
    for kind in (PING, PONG):
        probe = Probe(kind=kind, link_id=b"12345678", nonce=b"abcdefgh")
        packet = probe.encode(KEY)

        assert len(packet) == PROBE_BYTES
        assert decode_probe(packet) == probe
        assert is_authentic(packet, KEY)
        assert not is_authentic(packet, OTHER)


def test_every_changed_byte_is_noticed() -> None:
    packet = Probe(kind=PING, link_id=b"12345678", nonce=b"abcdefgh").encode(KEY)
    for index in range(len(packet)):
        changed = bytearray(packet)
        changed[index] ^= 1
        assert decode_probe(bytes(changed)) is None or not is_authentic(bytes(changed), KEY)


def test_other_packets_are_no_probes() -> None:
    packet = Probe(kind=PING, link_id=b"12345678", nonce=b"abcdefgh").encode(KEY)
    assert decode_probe(packet[:-1]) is None
    assert decode_probe(packet + b"x") is None
    assert decode_probe(b"\x08" + packet[1:]) is None
    assert decode_probe(packet[:3] + b"\x02" + packet[4:]) is None
