"""Owns the limits and the hook of ``http.splice``: a filter on both directions of one tunnel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from masque_relay.contract.ports import Clock
from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason

PayloadHook = Callable[[Literal["rx", "tx"], bytes], bytes | None]
"""Sees every HTTP Datagram payload (context ID included); returns what passes, or None to drop."""

_KEYS = frozenset({"rate", "burst", "bytes", "idle"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpliceLimits:
    """What ``limits`` of an ``http.splice`` message may say. None means that no limit applies."""

    rate_bytes_per_s: float | None = None
    """Each way on its own."""
    burst_bytes: float | None = None
    """Bucket depth; None = one second of the rate, at least one datagram."""
    max_bytes: int | None = None
    """Both ways together; then the splice ends with ``byte_quota``."""
    idle_timeout_s: float | None = None
    """Without a datagram either way for so long (and at most a quarter more) it ends, ``idle``."""

    @classmethod
    def parse(cls, limits: Mapping[str, Any]) -> "SpliceLimits":
        """Read the message's dict: ``rate``, ``burst``, ``bytes``, ``idle``.

        Raises:
            ValueError: a key that does not exist, or a value that is not positive; an application
                that meant a limit must not run without it.
        """
        for key, value in limits.items():
            if key not in _KEYS or not isinstance(value, int | float) or value <= 0:
                message = f"http.splice: limit {key!r} is unknown or not a positive number"
                raise ValueError(message)
        return cls(
            rate_bytes_per_s=limits.get("rate"),
            burst_bytes=limits.get("burst"),
            max_bytes=limits.get("bytes"),
            idle_timeout_s=limits.get("idle"),
        )

    @property
    def filters(self) -> bool:
        """Whether any single datagram has to be looked at."""
        return self.rate_bytes_per_s is not None or self.max_bytes is not None


class _Bucket:
    """A token bucket in bytes; full at first."""

    __slots__ = ("_clock", "_depth_bytes", "_filled_s", "_level_bytes", "_rate_bytes_per_s")

    def __init__(self, rate_bytes_per_s: float, depth_bytes: float, clock: Clock) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._depth_bytes = depth_bytes
        self._level_bytes = depth_bytes
        self._clock = clock
        self._filled_s = clock.monotonic_s()

    def take(self, size: int) -> bool:
        now_s = self._clock.monotonic_s()
        refill_bytes = (now_s - self._filled_s) * self._rate_bytes_per_s
        self._level_bytes = min(self._depth_bytes, self._level_bytes + refill_bytes)
        self._filled_s = now_s
        if size > self._level_bytes:
            return False
        self._level_bytes -= size
        return True


class SpliceFilter:
    """Enforces rate, byte budget and hook on both directions.

    Attributes:
        dropped_datagrams: refused by the rate or by the hook.
    """

    def __init__(
        self,
        limits: SpliceLimits,
        hook: PayloadHook | None,
        clock: Clock,
        on_exhausted: Callable[[EndReason], None],
    ) -> None:
        self._hook = hook
        self._left_bytes = limits.max_bytes
        self._on_exhausted = on_exhausted
        self._buckets: dict[str, _Bucket] = {}
        self.dropped_datagrams = 0
        rate_bytes_per_s = limits.rate_bytes_per_s
        if rate_bytes_per_s is not None:
            depth_bytes = limits.burst_bytes or max(rate_bytes_per_s, 65_535)
            for direction in ("rx", "tx"):
                self._buckets[direction] = _Bucket(rate_bytes_per_s, depth_bytes, clock)

    def passing(self, direction: Literal["rx", "tx"], payloads: Sequence[bytes]) -> list[bytes]:
        """Return what may pass, in order."""
        passed: list[bytes] = []
        bucket = self._buckets.get(direction)
        for payload in payloads:
            result: bytes | None = payload
            if self._left_bytes is not None and len(payload) > self._left_bytes:
                self.dropped_datagrams += len(payloads) - len(passed)
                self._on_exhausted(EndReason.BYTE_QUOTA)
                return []
            if bucket is not None and not bucket.take(len(payload)):
                result = None
            elif self._hook is not None:
                result = self._hook(direction, payload)
            if result is None:
                self.dropped_datagrams += 1
                continue
            if self._left_bytes is not None:
                self._left_bytes -= len(payload)
            passed.append(result)
        return passed


class FilteredCarrier:
    """A Carrier that lets the filter see what goes to the client."""

    __slots__ = ("_carrier", "_filter")

    def __init__(self, carrier: Carrier, splice_filter: SpliceFilter) -> None:
        self._carrier = carrier
        self._filter = splice_filter

    @property
    def max_payload_bytes(self) -> int:
        """As of the carrier below."""
        return self._carrier.max_payload_bytes

    @property
    def unsent_bytes(self) -> int:
        """As of the carrier below."""
        return self._carrier.unsent_bytes

    @property
    def is_busy(self) -> bool:
        """As of the carrier below."""
        return self._carrier.is_busy

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue what the filter lets pass."""
        passed = self._filter.passing("tx", [prefix + payload for payload in payloads])
        return self._carrier.send_datagrams(b"", passed) if passed else 0

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        """Capsules pass."""
        self._carrier.send_capsule(capsule_type, value)

    def abort(self, reason: EndReason) -> None:
        """Reset the stream."""
        self._carrier.abort(reason)

    def finish(self) -> None:
        """End the stream."""
        self._carrier.finish()
