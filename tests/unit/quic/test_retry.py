"""Address validation by Retry (RFC 9000 section 8.1.2)."""

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, get_retry_integrity_tag, pull_quic_header

from masque_relay.quic.packet import SUPPORTED_VERSIONS, LongHeader, LongType
from masque_relay.quic.retry import (
    CONNECTION_REFUSED,
    EndpointSecrets,
    RetryTokens,
    encode_initial_close,
    encode_retry,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
SOURCE = ("192.0.2.7", 4433)
NOW_S = 1_800_000_000.0


def tokens(*keys: bytes) -> RetryTokens:
    return RetryTokens(keys or (KEY,), lifetime_s=30.0)


def issue(issuer: RetryTokens, source: tuple[str, int] = SOURCE) -> bytes:
    return issuer.issue(
        source,
        original_destination_cid=b"original",
        retry_source_cid=b"retrycid",
        wall_s=NOW_S,
    )


class TestToken:
    def test_good_token_brings_back_both_connection_ids(self) -> None:
        opened = tokens().validate(
            SOURCE, issue(tokens()), destination_cid=b"retrycid", wall_s=NOW_S + 1
        )
        assert opened is not None
        assert opened.original_destination_cid == b"original"
        assert opened.retry_source_cid == b"retrycid"

    @pytest.mark.clause("RFC 9000", "8.1.4", "MUST", "bind Retry tokens to the client's address")
    @pytest.mark.parametrize(
        "source",
        [
            ("192.0.2.8", 4433),
            ("192.0.2.7", 4434),
            ("2001:db8::7", 4433),
            ("::ffff:c000:207", 4433),
        ],
    )
    def test_token_is_bound_to_address_and_port(self, source: tuple[str, int]) -> None:
        token = issue(tokens())
        assert tokens().validate(source, token, destination_cid=b"retrycid", wall_s=NOW_S) is None

    def test_token_is_bound_to_the_retry_connection_id(self) -> None:
        token = issue(tokens())
        assert tokens().validate(SOURCE, token, destination_cid=b"another8", wall_s=NOW_S) is None

    @pytest.mark.clause("RFC 9000", "8.1.4", "SHOULD", "let Retry tokens expire soon")
    @pytest.mark.parametrize(
        ("age_s", "good"), [(-6.0, False), (-1.0, True), (0.0, True), (29.9, True), (30.1, False)]
    )
    def test_token_expires(self, age_s: float, good: bool) -> None:
        opened = tokens().validate(
            SOURCE, issue(tokens()), destination_cid=b"retrycid", wall_s=NOW_S + age_s
        )
        assert (opened is not None) is good

    @pytest.mark.clause("RFC 9000", "8.1.4", "MUST", "protect tokens against forgery")
    def test_every_changed_byte_spoils_the_token(self) -> None:
        token = issue(tokens())
        for position in range(len(token)):
            changed = bytearray(token)
            changed[position] ^= 1
            assert (
                tokens().validate(SOURCE, bytes(changed), destination_cid=b"retrycid", wall_s=NOW_S)
                is None
            )

    @pytest.mark.parametrize("token", [b"", b"x", bytes(28), bytes(60), bytes(5_000)])
    def test_rubbish_is_refused(self, token: bytes) -> None:
        assert tokens().validate(SOURCE, token, destination_cid=b"", wall_s=NOW_S) is None

    def test_key_rotation_keeps_old_tokens_good_until_the_old_key_goes(self) -> None:
        token = issue(tokens(KEY))
        rotating = tokens(OTHER_KEY, KEY)
        assert rotating.validate(SOURCE, token, destination_cid=b"retrycid", wall_s=NOW_S)
        assert (
            tokens(OTHER_KEY).validate(SOURCE, token, destination_cid=b"retrycid", wall_s=NOW_S)
            is None
        )
        fresh = issue(rotating)
        assert tokens(OTHER_KEY).validate(SOURCE, fresh, destination_cid=b"retrycid", wall_s=NOW_S)

    @pytest.mark.parametrize("keys", [[], [b"short"], [KEY, bytes(24)]])
    def test_unfit_keys_are_refused(self, keys: list[bytes]) -> None:
        with pytest.raises(ValueError, match="16 or 32 bytes"):
            RetryTokens(keys, lifetime_s=30.0)

    def test_secrets_do_not_show_themselves(self) -> None:
        secrets = EndpointSecrets(retry_keys=(KEY,), reset_key=OTHER_KEY)
        assert "x00" not in repr(secrets)
        assert "retry_keys" not in repr(secrets)


class TestPackets:
    @pytest.mark.clause(
        "RFC 9000", "17.2.5.1", "MUST", "give Retry a token and a connection ID of our own"
    )
    @pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
    def test_retry_carries_a_token_for_the_connection_id_that_it_names(self, version: int) -> None:
        initial = LongHeader(version, LongType.INITIAL, b"original", b"client", b"")
        packet = encode_retry(tokens(), initial, SOURCE, wall_s=NOW_S)
        header = pull_quic_header(Buffer(data=packet), host_cid_length=8)
        assert header.packet_type is QuicPacketType.RETRY
        assert header.destination_cid == b"client"
        assert header.integrity_tag == get_retry_integrity_tag(packet[:-16], b"original", version)
        opened = tokens().validate(
            SOURCE, header.token, destination_cid=header.source_cid, wall_s=NOW_S
        )
        assert opened is not None
        assert opened.original_destination_cid == b"original"

    @pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
    def test_refusal_can_be_read_by_the_client_and_is_smaller_than_its_trigger(
        self, version: int
    ) -> None:
        initial = LongHeader(version, LongType.INITIAL, b"original", b"client", b"")
        packet = encode_initial_close(initial, CONNECTION_REFUSED)
        assert len(packet) < 100
        crypto = CryptoPair()
        crypto.setup_initial(cid=b"original", is_client=True, version=version)
        buffer = Buffer(data=packet)
        pull_quic_header(buffer, host_cid_length=8)
        _, payload, _ = crypto.decrypt_packet(packet, buffer.tell(), 0)
        # A transport CONNECTION_CLOSE frame, its code, frame type 0, no reason.
        assert payload.startswith(bytes((0x1C, CONNECTION_REFUSED, 0, 0)))
