"""Owns the answer to a packet of no known connection: admit it, answer it without state, drop it.

Sans I/O. Each stateless answer is smaller than the packet that asks for it and bounded in rate, so
that a spoofed source cannot make us a reflector or amplifier.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.admission import Admission, RateBound, Verdict, source_key
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.packet import (
    CONNECTION_ID_BYTES,
    MIN_INITIAL_CONNECTION_ID_BYTES,
    MIN_INITIAL_DATAGRAM_BYTES,
    LongHeader,
    LongType,
    encode_version_negotiation,
    peek_long_header,
)
from masque_relay.quic.reset import ResetTokens
from masque_relay.quic.retry import (
    CONNECTION_REFUSED,
    INVALID_TOKEN,
    EndpointSecrets,
    RetryTokens,
    encode_initial_close,
    encode_retry,
)


@dataclass(slots=True)
class Newcomer:
    """A connection that may begin."""

    key: bytes
    """What it is counted by; see :func:`masque_relay.quic.admission.source_key`."""
    original_destination_cid: bytes
    """Of the client's very first Initial."""
    retry_source_cid: bytes | None
    """Of our Retry, when this Initial answers one."""


class Doorkeeper:
    """Judges the packets that no connection claims. One per endpoint."""

    def __init__(
        self,
        admission: Admission,
        counters: QuicCounters,
        limits: QuicLimits,
        secrets: EndpointSecrets,
        new_connection_id: Callable[[], bytes] | None = None,
    ) -> None:
        self._admission = admission
        self._new_connection_id = new_connection_id
        self._counters = counters
        self.replace(limits, secrets)

    @property
    def reset_tokens(self) -> ResetTokens:
        """The tokens that belong to the connection IDs that we issue."""
        return self._reset_tokens

    def replace(self, limits: QuicLimits, secrets: EndpointSecrets) -> None:
        """Use other limits and keys from now on."""
        self._retry_tokens = RetryTokens(
            secrets.retry_keys, lifetime_s=limits.retry_token_lifetime_s
        )
        self._reset_tokens = ResetTokens(secrets.reset_key)
        self._negotiation_rate = RateBound(limits.version_negotiations_per_s)
        self._refusal_rate = RateBound(limits.refusals_per_s)
        self._reset_rate = RateBound(limits.stateless_resets_per_s)

    def meet_long(
        self, data: bytes, source: tuple[str, int], *, now_s: float, wall_s: float
    ) -> Newcomer | bytes | None:
        """Judge a long header packet: who may begin, the packet to answer with, or nothing."""
        header = peek_long_header(data)
        if header is None or len(data) < MIN_INITIAL_DATAGRAM_BYTES or not source[1]:
            self._counters.packets_unroutable += 1
            return None
        if header.packet_type is None:
            return self._negotiate_version(header, now_s)
        if (
            header.packet_type is not LongType.INITIAL
            or len(header.destination_cid) < MIN_INITIAL_CONNECTION_ID_BYTES
        ):
            self._counters.packets_unroutable += 1
            return None
        return self._meet_initial(header, source, now_s=now_s, wall_s=wall_s)

    def meet_short(self, data: bytes, *, now_s: float) -> bytes | None:
        """Judge a short header packet: the stateless reset to answer with, or nothing."""
        reset = self._reset_tokens.reset_for(data, data[1 : 1 + CONNECTION_ID_BYTES])
        if reset is None or not self._reset_rate.take(now_s):
            self._counters.packets_unroutable += 1
            return None
        self._counters.stateless_resets_sent += 1
        return reset

    def _negotiate_version(self, header: LongHeader, now_s: float) -> bytes | None:
        # RFC 9000 section 6.1: a Version Negotiation packet (version 0) is never answered with one,
        # or two servers could be set at each other.
        if header.version == 0 or not self._negotiation_rate.take(now_s):
            self._counters.packets_unroutable += 1
            return None
        self._counters.version_negotiations_sent += 1
        return encode_version_negotiation(
            destination_cid=header.source_cid,
            source_cid=header.destination_cid,
            refused_version=header.version,
        )

    def _meet_initial(
        self, header: LongHeader, source: tuple[str, int], *, now_s: float, wall_s: float
    ) -> Newcomer | bytes | None:
        token = None
        if header.token:
            token = self._retry_tokens.validate(
                source, header.token, destination_cid=header.destination_cid, wall_s=wall_s
            )
            if token is None:
                # RFC 9000 section 8.1.2: this client takes no second Retry; tell it at once.
                self._counters.retry_tokens_invalid += 1
                return self._refuse(header, INVALID_TOKEN, now_s)
        key = source_key(source[0])
        verdict = self._admission.judge(key, now_s, address_validated=token is not None)
        match verdict:
            case Verdict.REFUSE:
                return self._refuse(header, CONNECTION_REFUSED, now_s)
            case Verdict.RETRY:
                self._counters.retries_sent += 1
                return encode_retry(
                    self._retry_tokens,
                    header,
                    source,
                    wall_s=wall_s,
                    new_connection_id=self._new_connection_id,
                )
            case Verdict.ADMIT:
                if token is None:
                    return Newcomer(key, header.destination_cid, None)
                return Newcomer(key, token.original_destination_cid, token.retry_source_cid)
            case _:
                assert_never(verdict)

    def _refuse(self, header: LongHeader, error_code: int, now_s: float) -> bytes | None:
        if not self._refusal_rate.take(now_s):
            return None
        return encode_initial_close(header, error_code)
