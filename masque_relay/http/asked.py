"""Owns Asked: what a tunnel request asks for, as its route's variables and its fields say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import Scope

from masque_relay.contract.address import Target
from masque_relay.contract.ip_scope import IpScope
from masque_relay.contract.request import Method
from masque_relay.wire.connect_udp import parse_host, parse_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The part of a RelayRequest that differs by kind of tunnel."""

    method: Method
    target: Target | None = None
    ip_scope: IpScope | None = None
    fallback: "Asked | None" = None
    """What the client takes instead where the policy refuses the first."""


TARGET_VARIABLES = ("target_host", "target_port")
"""What the templates of CONNECT-UDP and CONNECT-TCP must have (RFC 9298 section 2)."""

AskedReader = Callable[[Scope], Asked]
"""Reads ``scope["path_params"]`` and the header fields. Raises WireError: the client hears 400."""


def asks_for_target(method: Method) -> AskedReader:
    """Return the reader for a method whose template names one host and one port."""

    def read(scope: Scope) -> Asked:
        return Asked(method=method, target=parse_target(scope["path_params"]))

    return read


def parse_target(variables: Mapping[str, str]) -> Target:
    """Return the target that a template's variables name (RFC 9298 section 3).

    Raises:
        WireError: the host or the port is none.
    """
    return Target(
        host=parse_host(variables["target_host"]), port=parse_port(variables["target_port"])
    )
