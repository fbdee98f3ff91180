"""Owns the way into DERP over HTTP: an ASGI endpoint for the Upgrade, or an extended CONNECT."""

from ipaddress import ip_address

from starlette.types import Receive, Scope, Send

from fallbacks.derp.server import DerpServer
from fallbacks.derp.session import DerpSession
from fallbacks.derp.wire import PROTOCOL_VERSION
from masque_relay.contract.address import Endpoint
from masque_relay.contract.verdict import EndReason

PROTOCOL = "derp"

_NEVER_IDLE_S = 10 * 365 * 86_400.0
"""The session keeps itself alive."""

_UNKNOWN_SOURCE = ip_address("0.0.0.0")  # noqa: S104  (a Unix socket has no peer address)


class DerpUpgrade:
    """Answers with what a 101 says, then the bytes are DERP's.

    The gate is asked later, when the client has proved its key: an HTTP request has none. A client
    that says ``Derp-Fast-Start: 1`` hears no 101; that is the HTTP server's business.
    """

    def __init__(self, server: DerpServer) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold one session until it ends."""
        session = arrive(self._server, scope)
        if session is None:
            await send_full(send)
            return
        headers = [
            (b"derp-version", b"%d" % PROTOCOL_VERSION),
            (b"derp-public-key", self._server.box.public_key.hex().encode()),
        ]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send(
                {
                    "type": "http.splice",
                    "kind": "tcp",
                    "sink": session,
                    "limits": {"idle": _NEVER_IDLE_S},
                }
            )
            while (await receive())["type"] not in {"http.splice.done", "http.disconnect"}:
                pass
        finally:
            session.ended(EndReason.CONNECTION_LOST)


def arrive(server: DerpServer, scope: Scope) -> DerpSession | None:
    """Return the session of a request's client; None where there is no room."""
    client: tuple[str, int] | None = scope.get("client")
    source = Endpoint(
        address=_UNKNOWN_SOURCE if client is None else ip_address(client[0]),
        port=0 if client is None else client[1],
    )
    return server.arrive(
        source,
        request_id=scope["state"].get("request_id", ""),
        is_ideal=not any(name == b"ideal-node" for name, _ in scope["headers"]),
    )


async def send_full(send: Send, prefix: str = "") -> None:
    """Answer 503; ``prefix`` makes it the refusal of a WebSocket."""
    headers = [(b"retry-after", b"5"), (b"content-length", b"0")]
    await send({"type": f"{prefix}http.response.start", "status": 503, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": b""})
