"""Owns the client's clock: the system's, as a contract.ports.Clock."""

import time


class SystemClock:
    """Real time."""

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()
