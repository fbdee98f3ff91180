"""Owns what client and server tell each other in sealed JSON: ClientInfo and ServerInfo."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from fallbacks.derp.wire import PROTOCOL_VERSION
from masque_relay.contract.lease import TunnelLimits
from masque_relay.wire.errors import WireError

_SECTION = "DERP: ClientInfo"
_MAX_KEY_CHARACTERS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientInfo:
    """What a client says of itself."""

    version: int
    mesh_key: str = field(default="", repr=False)
    """Proof of belonging to the operator's own servers; empty for everybody else."""
    can_ack_pings: bool = False
    is_prober: bool = False


def parse_client_info(text: bytes) -> ClientInfo:
    """Return what the opened box says. Names of members count without regard to case, as in Go.

    Raises:
        WireError: it is not JSON of the kind.
    """
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("ClientInfo is not JSON", section=_SECTION) from error
    if not isinstance(document, dict):
        raise WireError("ClientInfo is not a JSON object", section=_SECTION)
    members = {str(name).lower(): value for name, value in cast("dict[str, Any]", document).items()}
    version = _member(members, "version", int, 0)
    mesh_key = _member(members, "meshkey", str, "")
    if not isinstance(version, int) or not isinstance(mesh_key, str):
        raise WireError("ClientInfo has members of wrong types", section=_SECTION)
    if len(mesh_key) > _MAX_KEY_CHARACTERS:
        raise WireError("the mesh key is too long", section=_SECTION)
    return ClientInfo(
        version=version,
        mesh_key=mesh_key,
        can_ack_pings=members.get("canackpings") is True,
        is_prober=members.get("isprober") is True,
    )


def encode_server_info(limits: TunnelLimits) -> bytes:
    """Return the JSON for a client: the version, and its rate if it has one."""
    info: dict[str, int] = {"version": PROTOCOL_VERSION}
    rate = limits.rate_bytes_per_s
    if rate is not None:
        info["TokenBucketBytesPerSecond"] = rate
        info["TokenBucketBytesBurst"] = limits.burst_bytes or max(rate, 65_535)
    return json.dumps(info, separators=(",", ":")).encode()


def encode_mesh_client_info(mesh_key: str) -> bytes:
    """Return the JSON by which a server shows another one that both belong to one mesh."""
    info = {"version": PROTOCOL_VERSION, "meshKey": mesh_key, "CanAckPings": True}
    return json.dumps(info, separators=(",", ":")).encode()


def _member(members: dict[str, Any], name: str, kind: type, default: object) -> object:
    value: object = members.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise WireError(f"ClientInfo has a {name} of a wrong type", section=_SECTION)
    return value
