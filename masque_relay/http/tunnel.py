"""Owns the tunnel endpoint: open one tunnel of any kind, answer, hand it to the server."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog
from starlette.types import Message, Receive, Scope, Send

from masque_relay.contract.tunnel import StreamSession, TunnelSession
from masque_relay.contract.verdict import EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.asked import AskedReader
from masque_relay.http.denials import Refusal, send_refusal
from masque_relay.http.gate_middleware import request_id_of
from masque_relay.wire.uri_template import UriTemplate

_log = structlog.get_logger(__name__)


class EndableSession(Protocol):
    """What every tunnel session has beside its packet path."""

    @property
    def end_reason(self) -> EndReason | None:
        """Why the tunnel is over; None while it lives."""
        ...

    def close(self, reason: EndReason) -> None:
        """End the tunnel from our side; idempotent."""
        ...

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; idempotent."""
        ...


class DatagramTunnelSession(TunnelSession, EndableSession, Protocol):
    """A session of datagrams and capsules that the endpoint can hold."""


class StreamTunnelSession(StreamSession, EndableSession, Protocol):
    """A session of stream bytes that the endpoint can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A tunnel that is open: what the 200 says, and how the stream is spliced."""

    headers: Sequence[tuple[bytes, bytes]]
    splice: str
    """The ``kind`` of ``http.splice``: ``flow`` for datagrams and capsules, ``tcp`` for bytes."""
    idle_timeout_s: float | None = None
    """Of a kind that has its own idea of idleness; None takes the lease's."""


class Tunnel(Protocol):
    """One tunnel of one kind, from its admission to its end."""

    @property
    def session(self) -> DatagramTunnelSession | StreamTunnelSession:
        """What is spliced; it exists before the tunnel is open, so that the gate can end it."""
        ...

    async def open(self) -> Opened | Refusal:
        """Reach the target. A refusal has closed the admission with the reason.

        Every await inside has a deadline.
        """
        ...

    def end_detail(self) -> str:
        """What an operator wants to know about how it went; empty when nothing."""
        ...


TunnelFactory = Callable[[Scope, Admission], Tunnel]
"""Makes the tunnel of one admitted request; opens nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelKind:
    """One kind of tunnel as the application mounts it."""

    protocol: str | None
    """The ``:protocol`` or Upgrade token; None stands for classic CONNECT."""
    templates: Sequence[UriTemplate]
    """Where it answers, the first that matches counts; empty for classic CONNECT."""
    read_asked: AskedReader
    tunnels: TunnelFactory


class TunnelEndpoint:
    """An ASGI endpoint behind the GateMiddleware, for every kind of tunnel."""

    def __init__(self, tunnels: TunnelFactory, *, proxy_name: str) -> None:
        self._tunnels = tunnels
        self._proxy_name = proxy_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open one tunnel; the server keeps it, without a task of ours, until it ends."""
        admission: Admission = scope["state"]["admission"]
        tunnel = self._tunnels(scope, admission)
        session = tunnel.session
        admission.on_end(session.close)
        try:
            if expects_continue(scope):
                await send({"type": "http.response.start", "status": 100, "headers": []})
            opened = await tunnel.open()
            if isinstance(opened, Refusal):
                await send_refusal(
                    send, opened, proxy_name=self._proxy_name, request_id=request_id_of(scope)
                )
                return
            await self._hand_over(admission, tunnel, opened, send)
        except asyncio.CancelledError:
            admission.close(EndReason.DRAINED)
            raise
        except OSError as error:  # the client went away while we answered
            admission.close(EndReason.PEER_RESET, str(error))
            raise
        finally:
            if not admission.outlives_request:
                session.ended(EndReason.PEER_RESET)

    @staticmethod
    async def _hand_over(admission: Admission, tunnel: Tunnel, opened: Opened, send: Send) -> None:
        """Answer 200 and hand the bulk to the server, which says when it is over."""
        headers = list(opened.headers)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(
            {
                "type": "http.splice",
                "kind": opened.splice,
                "sink": tunnel.session,
                "limits": {"idle": opened.idle_timeout_s or admission.lease.limits.idle_timeout_s},
                "on_done": partial(_ended, admission, tunnel),
            }
        )
        admission.outlives_request = True


def _ended(admission: Admission, tunnel: Tunnel, report: Message) -> None:
    """Give back what the tunnel held."""
    del report
    reason = tunnel.session.end_reason or EndReason.BUG
    admission.close(reason, tunnel.end_detail())
    admission.release()
    _log.debug("tunnel ended", request_id=admission.lease.request.request_id, reason=reason)


def expects_continue(scope: Scope) -> bool:
    """Return whether the client waits for a 100 (RFC 9110 section 10.1.1).

    connect-tcp, "Conveying Metadata": a proxy MUST answer it; here once the gate has admitted the
    request, before the name is resolved and the target is tried.
    """
    return any(
        name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"]
    )
