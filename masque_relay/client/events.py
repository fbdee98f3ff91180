"""Owns what a running forward reports: values for a log, a terminal or a script."""

from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.client.address import ForwardSpec
from masque_relay.client.errors import ClientError, TunnelRefused
from masque_relay.contract.address import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConnected:
    """A connection to the relay is up."""

    peer: Endpoint | None
    """The relay's address that answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAway:
    """No connection to the relay; local datagrams are dropped and counted meanwhile."""

    error: ClientError
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadSizeChanged:
    """Another largest payload fits through a forward from now on."""

    forward: ForwardSpec
    max_payload_bytes: int
    reliable: bool
    """Capsules carry the payloads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OversizeDropped:
    """Datagrams of local peers were dropped since the last report because they are too large."""

    forward: ForwardSpec
    dropped_count: int
    largest_bytes: int
    """The largest of them."""
    max_payload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelDenied:
    """The relay refused a tunnel for a local peer, after the forward had been running."""

    forward: ForwardSpec
    error: TunnelRefused
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PortBound:
    """The relay has bound a public port; peers reach the local program there from now on."""

    target: Endpoint
    """The local program."""
    public: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLost:
    """The public port is gone; another one will be asked for."""

    target: Endpoint
    error: ClientError
    retry_in_s: float


ClientEvent = RelayConnected | RelayAway | PayloadSizeChanged | OversizeDropped | TunnelDenied

BindEvent = PortBound | PortLost

OnEvent = Callable[[ClientEvent], None]


def ignore_event(event: ClientEvent) -> None:
    """Take an event and do nothing."""
    del event
