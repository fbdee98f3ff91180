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
    DeviceFailed,
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
from masque_relay.client.ip_tunnel import ANY_IPV4, ANY_IPV6, IpTunnel, ip_request
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
    "ANY_IPV4",
    "ANY_IPV6",
    "AddressError",
    "Basic",
    "Bearer",
    "BoundUdp",
    "ClientError",
    "ClientLimits",
    "ConnectionLost",
    "Credential",
    "CredentialError",
    "DeviceFailed",
    "ForwardLimits",
    "ForwardSpec",
    "HttpChoice",
    "IpTunnel",
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
    "ip_request",
    "make_target",
    "open_bound_udp",
    "parse_target",
]
