"""Answers to requests."""

import pytest

from fallbacks.turn import replies
from masque_relay.stun.codepoints import Attribute, ErrorCode, MessageClass, Method
from masque_relay.stun.integrity import append_integrity, is_signed_by
from masque_relay.stun.message import append_fingerprint, decode_message, encode_message

ID = bytes(range(12))
REQUEST = encode_message(Method.REFRESH, MessageClass.REQUEST, ID)


@pytest.mark.parametrize("sha256", [False, True])
@pytest.mark.parametrize("fingerprint", [False, True])
def test_an_answer_is_like_its_request(sha256: bool, fingerprint: bool) -> None:
    data = append_integrity(REQUEST, b"key", sha256=sha256)
    request = decode_message(append_fingerprint(data) if fingerprint else data)
    answer = decode_message(replies.success(request, [(0x8022, b"x")], key=b"key"))
    assert answer.transaction_id == ID
    assert answer.method == Method.REFRESH
    assert answer.message_class is MessageClass.SUCCESS
    assert is_signed_by(answer, b"key")
    assert (answer.integrity_sha256_at is not None) == sha256
    assert answer.has_fingerprint == fingerprint


def test_an_error_without_a_key_is_not_signed() -> None:
    answer = decode_message(replies.error(decode_message(REQUEST), ErrorCode.FORBIDDEN))
    assert answer.message_class is MessageClass.ERROR
    assert answer.integrity_at is None
    assert answer.get(Attribute.ERROR_CODE) == b"\0\0\x04\x03Forbidden"


def test_unknown_attributes_are_listed() -> None:
    answer = decode_message(replies.unknown_attributes(decode_message(REQUEST), [0x7F00, 2]))
    assert answer.get(Attribute.UNKNOWN_ATTRIBUTES) == b"\x7f\0\0\2"


def test_software_is_told_where_it_is_set() -> None:
    answer = decode_message(
        replies.success(decode_message(REQUEST), [], key=None, software="relay")
    )
    assert answer.get(Attribute.SOFTWARE) == b"relay"
