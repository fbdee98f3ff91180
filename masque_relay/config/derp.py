"""Owns the section `[derp]`: relaying for Tailscale-style clients, off unless it is switched on."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from masque_relay.contract.derp_limits import DerpLimits


class DerpSection(BaseModel):
    """DERP v2 (Tailscale's relay protocol), on the port of HTTPS."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    enabled: bool = False
    """Serve DERP clients; `[gate.node_keys]` says who may come in, the policy's `ghostwire` rules
    whom they reach. There is one worker then: clients of two processes could not meet. Read at
    start only."""
    path: str = "/derp"
    """Where clients ask for it; the probes are below it. Tailscale's clients know only `/derp`.
    Read at start only."""
    key_file: Path | None = None
    """The relay's own private key: 64 hexadecimal digits, or a derper's JSON. Without it a key is
    made at every start, and the servers of a mesh can't know this one by it. Read at start
    only."""
    mesh_key_file: Path | None = None
    """64 hexadecimal digits that all servers of one mesh share. Whoever has it, and is admitted,
    may watch clients, close them and forward packets. Without it nobody may. Read at start
    only."""
    websocket: bool = True
    """Take WebSockets with the subprotocol `derp` too. Read at start only."""
    fast_start: bool = True
    """Show the key in a certificate behind the relay's own, so that clients save a round trip. Read
    at start only."""
    bootstrap_dns: dict[str, tuple[str, ...]] = {}
    """What `/bootstrap-dns` answers: names and their addresses. Read at start only."""
    limits: DerpLimits = DerpLimits()
    """Caps and deadlines. Read at start only."""

    @model_validator(mode="after")
    def _has_a_path(self) -> Self:
        if not self.path.startswith("/") or self.path.endswith("/") or "{" in self.path:
            raise ValueError("path must begin with a slash, not end with one, and have no braces")
        return self
