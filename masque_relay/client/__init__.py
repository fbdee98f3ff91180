"""The client: tunnels through a relay, as a Python API and as local port forwards."""

from masque_relay.client.address import ForwardSpec, RelayAddress, make_target, parse_target
from masque_relay.client.credentials import Basic, Bearer, Credential, MutualTls
from masque_relay.client.errors import (
    AddressError,
    ClientError,
    ConnectionLost,
    CredentialError,
    ListenFailed,
    RelayIncapable,
    RelayLeaving,
    RelayTimeout,
    RelayUnreachable,
    RelayUntrusted,
    TunnelClosed,
    TunnelRefused,
)
from masque_relay.client.exchange import Response
from masque_relay.client.forward import UdpForward
from masque_relay.client.h3 import RelayConnection
from masque_relay.client.limits import ClientLimits, ForwardLimits, ReconnectLimits
from masque_relay.client.link import RelayLink
from masque_relay.client.relay import RelayClient, RelayOptions
from masque_relay.client.udp_tunnel import UdpTunnel

__all__ = [
    "AddressError",
    "Basic",
    "Bearer",
    "ClientError",
    "ClientLimits",
    "ConnectionLost",
    "Credential",
    "CredentialError",
    "ForwardLimits",
    "ForwardSpec",
    "ListenFailed",
    "MutualTls",
    "ReconnectLimits",
    "RelayAddress",
    "RelayClient",
    "RelayConnection",
    "RelayIncapable",
    "RelayLeaving",
    "RelayLink",
    "RelayOptions",
    "RelayTimeout",
    "RelayUnreachable",
    "RelayUntrusted",
    "Response",
    "TunnelClosed",
    "TunnelRefused",
    "UdpForward",
    "UdpTunnel",
    "make_target",
    "parse_target",
]
