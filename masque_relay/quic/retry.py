"""Owns address validation by Retry (RFC 9000 section 8.1.2): tokens, Retry packets, refusals."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    encode_quic_retry,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from masque_relay.quic.packet import (
    CONNECTION_ID_BYTES,
    MAX_CONNECTION_ID_BYTES,
    MIN_INITIAL_DATAGRAM_BYTES,
    LongHeader,
)

CONNECTION_REFUSED = int(QuicErrorCode.CONNECTION_REFUSED)
INVALID_TOKEN = int(QuicErrorCode.INVALID_TOKEN)

_KEY_BYTES = (16, 32)
_NONCE_BYTES = 12
_TOKEN_DOMAIN = b"ghostwire retry token 1"
# What the AEAD binds besides the address, so that a token of another kind or layout never opens.
_CLOCK_SKEW_S = 5.0
# Relays that share a key may have clocks that differ: a token from the near future is still good.


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSecrets:
    """Keys that relays behind one address share, so that any of them can take up a handshake."""

    retry_keys: tuple[bytes, ...] = field(repr=False)
    """AES keys of 16 or 32 bytes. The first makes tokens, all of them open tokens: to rotate, put
    the new key second on every relay, then first, then drop the old one."""
    reset_key: bytes = field(repr=False)
    """At least 32 bytes; see :class:`masque_relay.quic.reset.ResetTokens`."""

    @classmethod
    def generate(cls) -> "EndpointSecrets":
        """Return fresh keys: good for one relay whose restarts need not be noticed."""
        return cls(retry_keys=(secrets.token_bytes(32),), reset_key=secrets.token_bytes(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedToken:
    """What a good Retry token says about the connection that it begins."""

    original_destination_cid: bytes
    retry_source_cid: bytes


class RetryTokens:
    """Makes and opens Retry tokens: AES-GCM over the connection IDs, bound to address and port."""

    def __init__(self, keys: Sequence[bytes], *, lifetime_s: float) -> None:
        if not keys or any(len(key) not in _KEY_BYTES for key in keys):
            msg = "Retry needs at least one key of 16 or 32 bytes"
            raise ValueError(msg)
        self._ciphers = [AESGCM(key) for key in keys]
        self._lifetime_s = lifetime_s

    def issue(
        self,
        source: tuple[str, int],
        *,
        original_destination_cid: bytes,
        retry_source_cid: bytes,
        wall_s: float,
    ) -> bytes:
        """Return a token for one address, valid from ``wall_s`` (seconds since the epoch)."""
        plain = b"".join(
            (
                int(wall_s * 1_000).to_bytes(8, "big"),
                bytes((len(original_destination_cid),)),
                original_destination_cid,
                retry_source_cid,
            )
        )
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, plain, _associated_data(source))

    def validate(
        self, source: tuple[str, int], token: bytes, *, destination_cid: bytes, wall_s: float
    ) -> ValidatedToken | None:
        """Open a token; None when it is not ours, not for this address or ID, or too old.

        RFC 9000 section 17.2.5.2: the client must have moved to the Retry's Source Connection ID.
        """
        plain = self._open(token, _associated_data(source))
        if plain is None or len(plain) < 9:
            return None
        issued_s = int.from_bytes(plain[:8], "big") / 1_000
        if not -_CLOCK_SKEW_S <= wall_s - issued_s <= self._lifetime_s:
            return None
        split = 9 + plain[8]
        original, retry_source = plain[9:split], plain[split:]
        if len(original) > MAX_CONNECTION_ID_BYTES or retry_source != destination_cid:
            return None
        return ValidatedToken(original_destination_cid=original, retry_source_cid=retry_source)

    def _open(self, token: bytes, associated_data: bytes) -> bytes | None:
        # Longer than any token of ours: do not spend a decryption on it.
        if not _NONCE_BYTES + 16 < len(token) <= 128:
            return None
        nonce, sealed = token[:_NONCE_BYTES], token[_NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, sealed, associated_data)
            except InvalidTag:
                continue
        return None


def _associated_data(source: tuple[str, int]) -> bytes:
    return _TOKEN_DOMAIN + ip_address(source[0]).packed + source[1].to_bytes(2, "big")


def encode_retry(
    tokens: RetryTokens,
    header: LongHeader,
    source: tuple[str, int],
    *,
    wall_s: float,
    new_connection_id: Callable[[], bytes] | None = None,
) -> bytes:
    """Return the Retry packet that answers a client's Initial (RFC 9000 section 17.2.5).

    ``new_connection_id`` makes its Source Connection ID, which leads the client's next Initial
    back to us.
    """
    if new_connection_id is not None:
        retry_source_cid = new_connection_id()
    else:
        retry_source_cid = secrets.token_bytes(CONNECTION_ID_BYTES)
    token = tokens.issue(
        source,
        original_destination_cid=header.destination_cid,
        retry_source_cid=retry_source_cid,
        wall_s=wall_s,
    )
    return encode_quic_retry(
        version=header.version,
        source_cid=retry_source_cid,
        destination_cid=header.source_cid,
        original_destination_cid=header.destination_cid,
        retry_token=token,
    )


def encode_initial_close(header: LongHeader, error_code: int) -> bytes:
    """Return a server Initial that refuses a connection of which no state is kept.

    Its keys come from the client's Destination Connection ID (RFC 9001 section 5.2).
    """
    crypto = CryptoPair()
    crypto.setup_initial(cid=header.destination_cid, is_client=False, version=header.version)
    builder = QuicPacketBuilder(
        host_cid=header.destination_cid,
        is_client=False,
        max_datagram_size=MIN_INITIAL_DATAGRAM_BYTES,
        peer_cid=header.source_cid,
        version=header.version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    frame = builder.start_frame(
        QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY
    )
    frame.push_uint_var(error_code)
    frame.push_uint_var(QuicFrameType.PADDING)
    frame.push_uint_var(0)
    datagrams, _ = builder.flush()
    return datagrams[0]
