"""Owns the section `[derp]`: relaying for Tailscale-style clients, off unless it is switched on."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from masque_relay.contract.derp_limits import DerpLimits, DerpMeshLimits
from masque_relay.wire.authority import parse_authority
from masque_relay.wire.errors import WireError

MAX_MESH_SERVERS = 64
"""All servers of one region pass all their comings and goings to each other: that is for a few."""

DEFAULT_PATH = "/derp"
"""Tailscale's own servers and clients know no other."""

_HTTPS = "https://"


def split_server_url(text: str) -> tuple[str, int, str]:
    """Return host, port and path of a DERP server's URL; the path is `/derp` unless it says so.

    Raises:
        ValueError: it is none.
    """
    authority, slash, path = text.removeprefix(_HTTPS).partition("/")
    try:
        is_plain = text.isascii() and text.isprintable() and not set("?#{} ") & set(text)
        if not is_plain or not text.startswith(_HTTPS):
            raise WireError("not https, or more than a path", section="")
        host, port = parse_authority(authority, default_port=443)
    except WireError:
        raise ValueError(f"{text!r} is not https://HOST[:PORT]/PATH") from None
    return host, port, slash + path if path else DEFAULT_PATH


def _checked_url(text: str) -> str:
    split_server_url(text)
    return text


ServerUrl = Annotated[str, AfterValidator(_checked_url)]
"""``https://HOST[:PORT]/PATH``."""


class DerpSection(BaseModel):
    """DERP v2 (Tailscale's relay protocol), on the port of HTTPS."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    enabled: bool = False
    """Serve DERP clients; `[gate.node_keys]` says who may come in, the policy's `ghostwire` rules
    whom they reach. There is one worker then: clients of two processes could not meet. Read at
    start only."""
    path: str = DEFAULT_PATH
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
    mesh_with: Annotated[tuple[ServerUrl, ...], Field(max_length=MAX_MESH_SERVERS)] = ()
    """The other servers of the region, as `https://HOST/derp`: packets for clients that are there
    and not here are passed on to them. Each has to have this one in its list too. One that turns
    out to be this very relay is left alone, so all may have the same list. Read at start only."""
    mesh_ca_file: Path | None = None
    """PEM; trust these for the servers of `mesh_with` and nothing else. Without it, the public
    roots. Read at start only."""
    websocket: bool = True
    """Take WebSockets with the subprotocol `derp` too. Read at start only."""
    fast_start: bool = True
    """Show the key in a certificate behind the relay's own, so that clients save a round trip. Read
    at start only."""
    bootstrap_dns: dict[str, tuple[str, ...]] = {}
    """What `/bootstrap-dns` answers: names and their addresses. Read at start only."""
    limits: DerpLimits = DerpLimits()
    """Caps and deadlines. Read at start only."""
    mesh_limits: DerpMeshLimits = DerpMeshLimits()
    """Those for each server of `mesh_with`. Read at start only."""

    @model_validator(mode="after")
    def _has_a_path(self) -> Self:
        if not self.path.startswith("/") or self.path.endswith("/") or "{" in self.path:
            raise ValueError("path must begin with a slash, not end with one, and have no braces")
        return self

    @field_validator("mesh_with")
    @classmethod
    def _has_a_mesh_key(cls, servers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # A file that is itself wrong has no entry here, and its own error.
        if servers and info.data.get("mesh_key_file", ...) is None:
            raise ValueError("needs derp.mesh_key_file too: the other servers ask for that key")
        if len(set(map(split_server_url, servers))) < len(servers):
            raise ValueError("names a server twice")
        return servers
