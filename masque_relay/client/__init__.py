"""The client: tunnels through a relay, as a Python API, as local port forwards and as a proxy."""

from masque_relay.client.address import ForwardSpec, RelayAddress, make_target, parse_target
from masque_relay.client.bound_udp import BoundUdp, open_bound_udp
from masque_relay.client.connection import RelayConnection
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
from masque_relay.client.http_version import HttpChoice
from masque_relay.client.limits import (
    ClientLimits,
    ForwardLimits,
    ProxyLimits,
    ReconnectLimits,
)
from masque_relay.client.link import RelayLink
from masque_relay.client.proxy import LocalProxy
from masque_relay.client.relay import RelayClient
from masque_relay.client.split import SplitRule, SplitRules, Way
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.client.uplink import RelayOptions

__all__ = [
    "AddressError",
    "Basic",
    "Bearer",
    "BoundUdp",
    "ClientError",
    "ClientLimits",
    "ConnectionLost",
    "Credential",
    "CredentialError",
    "ForwardLimits",
    "ForwardSpec",
    "HttpChoice",
    "ListenFailed",
    "LocalProxy",
    "MutualTls",
    "ProxyLimits",
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
    "SplitRule",
    "SplitRules",
    "TcpTunnel",
    "TunnelClosed",
    "TunnelRefused",
    "TunnelRequest",
    "TunnelStream",
    "TunnelUser",
    "UdpForward",
    "UdpTunnel",
    "Way",
    "make_target",
    "open_bound_udp",
    "parse_target",
]
