"""Owns the ``ghostwire`` tunnel over HTTP: a mesh session on an extended CONNECT or an Upgrade."""

from collections.abc import Sequence

from starlette.types import Scope

from masque_relay.contract.ghostwire import Arrival, FrameSession, SessionFactory
from masque_relay.contract.request import Method
from masque_relay.http.admission import Admission
from masque_relay.http.asked import Asked
from masque_relay.http.denials import Refusal
from masque_relay.http.tunnel import Opened, TunnelKind
from masque_relay.wire.ghostwire_names import DEFAULT_PATH, UPGRADE_TOKEN
from masque_relay.wire.uri_template import UriTemplate

_NEVER_IDLE_S = 10 * 365 * 86_400.0
"""The session keeps itself alive, and ends when nothing is heard."""


class GhostwireTunnel:
    """One peer's session on one request stream.

    Attributes:
        session: what is spliced.
    """

    def __init__(self, new_session: SessionFactory, scope: Scope, admission: Admission) -> None:
        self.session: FrameSession = new_session(arrival_of(scope, admission))

    async def open(self) -> Opened | Refusal:
        """Nothing is to be reached: the peer speaks first, once the 200 is there."""
        return Opened(
            headers=[(b"capsule-protocol", b"?1")], splice="flow", idle_timeout_s=_NEVER_IDLE_S
        )

    def end_detail(self) -> str:
        """The session tells the peer itself."""
        return ""


def arrival_of(scope: Scope, admission: Admission) -> Arrival:
    """Return how a peer came, for the session."""
    request = admission.lease.request
    server: tuple[str, int] | None = scope["server"]
    return Arrival(
        transport=request.transport,
        source=request.source,
        credentials=(),
        lease=admission.lease,
        exporter=scope["extensions"]["tls"]["exporter"],
        relay_name="" if server is None else server[0],
        request_id=request.request_id,
    )


def ghostwire_kind(
    new_session: SessionFactory, paths: Sequence[str] = (DEFAULT_PATH,)
) -> TunnelKind:
    """Return the mesh's tunnel as the application mounts it.

    Raises:
        WireError: a path is no URI template.
    """
    return TunnelKind(
        protocol=UPGRADE_TOKEN,
        templates=[UriTemplate.parse(path) for path in paths],
        read_asked=lambda _: Asked(method=Method.GHOSTWIRE),
        tunnels=lambda scope, admission: GhostwireTunnel(new_session, scope, admission),
    )
