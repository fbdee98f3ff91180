"""Owns the section `[ghostwire]`: the mesh at this relay, off unless it is switched on."""

from pydantic import BaseModel, ConfigDict

from masque_relay.tunnels.limits import GhostwireLimits
from masque_relay.wire.ghostwire_names import DEFAULT_PATH


class GhostwireSection(BaseModel):
    """The mesh: peers that meet at this relay (docs/protocol/ghostwire.md)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    enabled: bool = False
    """Let peers in. There is one worker then: peers of two processes could not meet. Read at start
    only."""
    paths: tuple[str, ...] = (DEFAULT_PATH,)
    """Where HTTP carriers ask for a session. Read at start only."""
    quic_native: bool = True
    """Take QUIC connections with the ALPN `ghostwire/1` on the port of HTTP/3. Read at start
    only."""
    websocket: bool = True
    """Take WebSockets with the subprotocol `ghostwire.v1` on these paths. Read at start only."""
    https: bool = True
    """Take sessions over plain requests below these paths. Read at start only."""
    relays: tuple[str, ...] = ()
    """URLs of all relays of this mesh, best first: what peers are told (the relay map). Read at
    start only."""
    limits: GhostwireLimits = GhostwireLimits()
    """Caps and deadlines."""
