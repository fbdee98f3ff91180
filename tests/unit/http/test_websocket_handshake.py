"""The opening handshake of WebSocket: RFC 6455 section 4, RFC 8441 section 5."""

import pytest

from masque_relay.http.request_head import RequestHead, parse_request_head
from masque_relay.http.transport import HttpVersion
from masque_relay.http.websocket_handshake import (
    HandshakeRefusedError,
    accept_fields,
    agree_deflate,
    check_handshake,
)
from masque_relay.http.websocket_settings import WebSocketSettings
from masque_relay.quic.application import Headers
from tests.support.websocket_frames import ACCEPT, EXTENDED_HEAD, KEY

COMPRESSING = WebSocketSettings(compression=True)
UPGRADE_HEAD: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/echo"),
    (b":protocol", b"websocket"),
    (b"host", b"localhost"),
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-key", KEY.encode()),
    (b"sec-websocket-version", b"13"),
]


def extended(*more: tuple[bytes, bytes], without: bytes = b"") -> RequestHead:
    head = [line for line in EXTENDED_HEAD if line[0] != without]
    return parse_request_head([*head, *more], end_stream=False)


def upgrade(*more: tuple[bytes, bytes], without: bytes = b"") -> RequestHead:
    head = [line for line in UPGRADE_HEAD if line[0] != without]
    return parse_request_head([*head, *more], end_stream=False, http_version=HttpVersion.HTTP1)


def refused(head: RequestHead, settings: WebSocketSettings | None = None) -> HandshakeRefusedError:
    with pytest.raises(HandshakeRefusedError) as refusal:
        check_handshake(head, settings or WebSocketSettings())
    return refusal.value


def fields_of(head: RequestHead, subprotocol: str | None = None) -> dict[bytes, bytes]:
    handshake = check_handshake(head, WebSocketSettings())
    return dict(
        accept_fields(
            handshake, subprotocol=subprotocol, headers=[], http_version=HttpVersion.HTTP1
        )
    )


class TestKey:
    def test_the_answer_is_that_of_the_rfc(self) -> None:
        assert fields_of(upgrade())[b"sec-websocket-accept"] == ACCEPT.encode()

    def test_extended_connect_has_neither_key_nor_answer(self) -> None:
        assert fields_of(extended()) == {}

    def test_an_intermediary_that_brings_a_key_gets_the_answer(self) -> None:
        """Envoy turns an Upgrade into extended CONNECT; its client waits for the answer."""
        head = extended((b"sec-websocket-key", KEY.encode()))
        assert fields_of(head) == {b"sec-websocket-accept": ACCEPT.encode()}

    def test_its_bad_key_is_not_answered(self) -> None:
        assert fields_of(extended((b"sec-websocket-key", b"short"))) == {}

    @pytest.mark.parametrize("key", [b"", b"short", b"AAAAAAAAAAAAAAAAAAAAAA", b"*" * 24])
    def test_a_bad_one_is_400(self, key: bytes) -> None:
        head = upgrade((b"sec-websocket-key", key), without=b"sec-websocket-key")
        assert refused(head).status == 400

    def test_none_or_two_are_400(self) -> None:
        assert refused(upgrade(without=b"sec-websocket-key")).status == 400
        assert refused(upgrade((b"sec-websocket-key", KEY.encode()))).status == 400


class TestVersion:
    @pytest.mark.parametrize("version", [b"8", b"14", b"13, 8", b""])
    def test_another_one_is_426_and_names_ours(self, version: bytes) -> None:
        head = upgrade((b"sec-websocket-version", version), without=b"sec-websocket-version")
        refusal = refused(head)
        assert refusal.status == 426
        assert (b"sec-websocket-version", b"13") in refusal.fields
        assert (b"upgrade", b"websocket") in refusal.fields

    def test_where_nothing_is_upgraded_it_is_400(self) -> None:
        refusal = refused(extended(without=b"sec-websocket-version"))
        assert refusal.status == 400
        assert refusal.fields == [(b"sec-websocket-version", b"13")]


@pytest.mark.parametrize("field", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")])
def test_content_after_the_head_is_400(field: tuple[bytes, bytes]) -> None:
    assert refused(upgrade(field)).status == 400


class TestOrigin:
    """RFC 6455 section 10.2."""

    @pytest.mark.parametrize(
        "origin",
        [b"https://localhost", b"https://localhost:443", b"https://LOCALHOST"],
    )
    def test_the_relays_own_pages_may_connect(self, origin: bytes) -> None:
        check_handshake(extended((b"origin", origin)), WebSocketSettings())

    @pytest.mark.parametrize(
        "origin",
        [
            b"https://evil.example",
            b"http://localhost",
            b"https://localhost:444",
            b"https://localhost.evil.example",
            b"null",
            b"",
            b"https://[",
        ],
    )
    def test_others_are_403(self, origin: bytes) -> None:
        assert refused(extended((b"origin", origin))).status == 403

    def test_two_are_403_even_if_both_are_good(self) -> None:
        good = (b"origin", b"https://localhost")
        assert refused(extended(good, good)).status == 403

    @pytest.mark.parametrize("allowed", ["https://app.example", "*"])
    def test_one_that_is_configured_may_connect(self, allowed: str) -> None:
        head = extended((b"origin", b"https://app.example"))
        check_handshake(head, WebSocketSettings(allowed_origins=(allowed,)))


class TestSubprotocols:
    def test_lines_and_lists_are_one(self) -> None:
        head = extended((b"sec-websocket-protocol", b"a, b"), (b"sec-websocket-protocol", b"c"))
        assert check_handshake(head, WebSocketSettings()).subprotocols == ("a", "b", "c")

    def test_the_chosen_one_is_said(self) -> None:
        head = extended((b"sec-websocket-protocol", b"a, b"))
        assert fields_of(head, "b") == {b"sec-websocket-protocol": b"b"}

    def test_one_that_was_not_offered_is_the_applications_bug(self) -> None:
        with pytest.raises(ValueError, match="did not offer"):
            fields_of(extended((b"sec-websocket-protocol", b"a")), "b")

    @pytest.mark.parametrize("offer", [b"a, a", b"a b", b"a, (b)"])
    def test_repeated_ones_and_what_is_no_token_are_400(self, offer: bytes) -> None:
        assert refused(extended((b"sec-websocket-protocol", offer))).status == 400


def test_the_servers_own_headers_are_not_the_applications() -> None:
    handshake = check_handshake(extended(), WebSocketSettings())
    with pytest.raises(ValueError, match="sec-websocket"):
        accept_fields(
            handshake,
            subprotocol=None,
            headers=[(b"Sec-WebSocket-Accept", b"x")],
            http_version=HttpVersion.HTTP3,
        )


class TestCompression:
    OFFER = (b"sec-websocket-extensions", b"x-unknown, permessage-deflate; client_max_window_bits")

    def test_it_is_off_unless_configured(self) -> None:
        handshake = check_handshake(extended(self.OFFER), WebSocketSettings())
        assert agree_deflate(handshake) == (None, [])

    def test_no_window_is_kept_between_messages(self) -> None:
        deflate, fields = agree_deflate(check_handshake(extended(self.OFFER), COMPRESSING))
        assert deflate is not None
        ((name, value),) = fields
        assert name == b"sec-websocket-extensions"
        assert value.startswith(b"permessage-deflate; ")
        assert b"server_no_context_takeover" in value
        assert b"client_no_context_takeover" in value

    @pytest.mark.parametrize("bits", [b"8", b"16", b"many"])
    def test_an_offer_that_nobody_can_keep_is_left_alone(self, bits: bytes) -> None:
        offer = b"permessage-deflate; server_max_window_bits=" + bits
        handshake = check_handshake(extended((b"sec-websocket-extensions", offer)), COMPRESSING)
        assert agree_deflate(handshake) == (None, [])
