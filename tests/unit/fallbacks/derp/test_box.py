"""NaCl boxes: what opens, and what must not."""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from nacl.public import Box, PrivateKey, PublicKey

from fallbacks.derp.box import ServerBox

ALICE = bytes(range(32))


def test_what_a_client_seals_is_opened_and_the_other_way_round() -> None:
    client, server = PrivateKey.generate(), ServerBox(ALICE)
    box = Box(client, PublicKey(server.public_key))
    key = bytes(client.public_key)
    assert server.open(key, bytes(box.encrypt(b"hello"))) == b"hello"
    assert bytes(box.decrypt(server.seal(key, b"back"))) == b"back"


def test_the_public_key_is_what_another_library_makes_of_the_private_one() -> None:
    other = X25519PrivateKey.from_private_bytes(ALICE).public_key()
    assert ServerBox(ALICE).public_key == other.public_bytes_raw()


def test_boxes_of_others_cut_boxes_and_bad_keys_do_not_open() -> None:
    client, other, server = PrivateKey.generate(), PrivateKey.generate(), ServerBox(ALICE)
    key = bytes(client.public_key)
    sealed = bytes(Box(client, PublicKey(server.public_key)).encrypt(b"hello"))
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for bad in (b"", sealed[:10], sealed[:24], sealed[:-1], changed):
        assert server.open(key, bad) is None
    assert server.open(bytes(other.public_key), sealed) is None
    assert server.open(bytes(32), sealed) is None
    assert server.open(b"short", sealed) is None
