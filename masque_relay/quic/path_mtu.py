"""Owns path MTU discovery by probes (RFC 8899, RFC 9000 section 14.3), sans I/O.

Sizes are UDP payloads. The search climbs a short ladder with one probe in flight; probes are not
data, so losing one costs nothing but the next step. Losing ordinary packets of more than the base
size, and only those, is a black hole: then the size falls to the base and the search starts again.
"""

BASE_DATAGRAM_BYTES = 1_200
"""RFC 9000 section 14: every path that QUIC works on takes it."""
LADDER_BYTES = (1_280, 1_350, 1_400, 1_452, 1_472)
"""Tunnels, PPPoE and Ethernet: 1,452 and 1,472 are 1,500 less the headers of IPv6 and IPv4."""
MAX_PROBES = 3
"""RFC 8899 section 5.1.2."""
RAISE_INTERVAL_S = 600.0
"""RFC 8899 section 5.1.1, PMTU_RAISE_TIMER: then larger sizes are tried again."""
BLACK_HOLE_HOLD_S = 10.0
"""After a black hole, so that a path that comes and goes is not probed without end."""
BLACK_HOLE_LOSSES = 3
"""Loss events in a row without one large packet acknowledged; congestion loses some, not all."""
IPV6_HEADERS_BYTES = 48
IPV4_HEADERS_BYTES = 28
_ETHERNET_MTU_BYTES = 1_500


class PathMtu:
    """The datagram size of one path: what is known to pass, what is being tried."""

    def __init__(self, *, initial_bytes: int, ceiling_bytes: int, is_ipv6: bool) -> None:
        headers_bytes = IPV6_HEADERS_BYTES if is_ipv6 else IPV4_HEADERS_BYTES
        self._ceiling_bytes = max(
            BASE_DATAGRAM_BYTES, min(ceiling_bytes, _ETHERNET_MTU_BYTES - headers_bytes)
        )
        self._initial_bytes = max(BASE_DATAGRAM_BYTES, min(initial_bytes, self._ceiling_bytes))
        self.current_bytes = self._initial_bytes
        """What ordinary packets may use."""
        self._probe_bytes: int | None = None
        self._probe_deadline_s: float | None = None
        self._failures = 0
        self._next_search_s = 0.0

    @property
    def deadline_s(self) -> float | None:
        """When :meth:`handle_timer` has something to do; None while the search rests.

        The rest before the next search is no reason to wake up: the next flush after it begins it.
        """
        return self._probe_deadline_s

    def limit(self, peer_max_bytes: int) -> None:
        """Never go above what the peer said that it takes (max_udp_payload_size)."""
        self._ceiling_bytes = max(BASE_DATAGRAM_BYTES, min(self._ceiling_bytes, peer_max_bytes))
        self._initial_bytes = min(self._initial_bytes, self._ceiling_bytes)
        self.current_bytes = min(self.current_bytes, self._ceiling_bytes)

    def restart(self) -> None:
        """The path is another one: begin with the initial size again."""
        self.current_bytes = self._initial_bytes
        self._forget_probe()
        self._failures = 0
        self._next_search_s = 0.0

    def next_probe_bytes(self, now: float) -> int | None:
        """Return the size to probe now, None when nothing is to be tried."""
        if (
            self.current_bytes >= self._ceiling_bytes  # asked in every turn, and most often so
            or self._probe_bytes is not None
            or now < self._next_search_s
        ):
            return None
        for size in (*LADDER_BYTES, self._ceiling_bytes):
            if self.current_bytes < size <= self._ceiling_bytes:
                return size
        return None

    def probe_sent(self, size_bytes: int, deadline_s: float) -> None:
        """A probe is on its way and counts as lost at the deadline."""
        self._probe_bytes = size_bytes
        self._probe_deadline_s = deadline_s

    def probe_acknowledged(self, size_bytes: int) -> bool:
        """A probe passed, early or late; return whether that raised the size."""
        if self._probe_bytes is not None and size_bytes >= self._probe_bytes:
            self._forget_probe()
        if not self.current_bytes < size_bytes <= self._ceiling_bytes:
            return False
        self.current_bytes = size_bytes
        self._failures = 0
        return True

    def probe_lost(self, size_bytes: int, now: float) -> None:
        """The probe of that size did not pass; after three of them the search rests."""
        if size_bytes != self._probe_bytes:
            return
        self._forget_probe()
        self._failures += 1
        if self._failures >= MAX_PROBES:
            self._failures = 0
            self._next_search_s = now + RAISE_INTERVAL_S

    def handle_timer(self, now: float) -> None:
        """Give up on a probe whose deadline has passed."""
        if self._probe_deadline_s is not None and now >= self._probe_deadline_s:
            assert self._probe_bytes is not None  # noqa: S101 - the two are set together
            self.probe_lost(self._probe_bytes, now)

    def black_hole_found(self, now: float) -> bool:
        """Large packets vanish: fall to the base; return whether that changed the size."""
        if self.current_bytes <= BASE_DATAGRAM_BYTES:
            return False
        self.current_bytes = BASE_DATAGRAM_BYTES
        self._forget_probe()
        self._failures = 0
        self._next_search_s = now + BLACK_HOLE_HOLD_S
        return True

    def _forget_probe(self) -> None:
        self._probe_bytes = None
        self._probe_deadline_s = None
