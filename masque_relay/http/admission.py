"""Owns Admission: one admitted tunnel request on its way through the application."""

from collections.abc import Callable

from masque_relay.contract.lease import Lease
from masque_relay.contract.verdict import EndReason


class Admission:
    """A lease, and how its tunnel ended; in ``scope["state"]["admission"]``.

    The middleware makes it and releases the lease; the endpoint fills in the end, and releases the
    lease itself where its tunnel outlives the request.

    Attributes:
        outlives_request: the endpoint has returned, its tunnel goes on.
        lease: the gate's permission.
        end_reason: what the middleware releases the lease with.
        end_detail: for the audit record.
        ended_by_gate: the control plane ended the lease, and why.
    """

    __slots__ = (
        "_on_end",
        "end_detail",
        "end_reason",
        "ended_by_gate",
        "lease",
        "outlives_request",
    )

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.end_reason = EndReason.BUG
        self.end_detail = ""
        self.ended_by_gate: EndReason | None = None
        self.outlives_request = False
        self._on_end: Callable[[EndReason], None] | None = None
        lease.on_end(self._lease_ended)

    def close(self, reason: EndReason, detail: str = "") -> None:
        """Say how the tunnel ended."""
        self.end_reason = reason
        self.end_detail = detail

    def on_end(self, callback: Callable[[EndReason], None]) -> None:
        """Set what ends the tunnel from outside; at once if the lease is over already."""
        self._on_end = callback
        if self.ended_by_gate is not None:
            callback(self.ended_by_gate)

    def release(self) -> None:
        """Give the lease back; idempotent."""
        self._on_end = None
        self.lease.release(self.end_reason, detail=self.end_detail)

    def _lease_ended(self, reason: EndReason) -> None:
        self.ended_by_gate = reason
        if self._on_end is not None:
            self._on_end(reason)
