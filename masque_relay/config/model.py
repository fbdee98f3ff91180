"""Owns the shape of the configuration: one frozen class per section of the TOML file.

The limits of a component are its own dataclass (QuicLimits, GateSettings, ...): default and reason
stand there once, and this file only says where in the TOML file they are set.
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from masque_relay.admin.limits import AdminLimits
from masque_relay.config.connect_ip import ConnectIpSection
from masque_relay.config.derp import DerpSection
from masque_relay.config.ghostwire import GhostwireSection
from masque_relay.config.turn import TurnSection
from masque_relay.config.upstream import UpstreamSection
from masque_relay.config.values import (
    AdminAddress,
    AnyIpAddress,
    CapsuleTypeNumber,
    HttpsAddress,
    HttpsListen,
    ListenAddress,
    PortNumber,
    Seconds,
    UriTemplateText,
    WorkerCount,
)
from masque_relay.contract.address import Endpoint
from masque_relay.control.settings import AuditSettings, GateSettings
from masque_relay.dataplane.limits import FlowLimits, ResolverLimits, SocketLimits
from masque_relay.dataplane.resolver import FamilyPreference
from masque_relay.http.denials import DEFAULT_PROXY_NAME
from masque_relay.http.limits import HttpLimits
from masque_relay.http.pvd import PvdSettings
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.quic.limits import H3Limits, QuicLimits
from masque_relay.tunnels.connect_udp_bind import BindLimits, Inbound
from masque_relay.tunnels.peer_policy import PeerPolicyLimits
from masque_relay.wire.connect_tcp import DATA_CAPSULE, FINAL_DATA_CAPSULE
from masque_relay.wire.connect_tcp import DEFAULT_TEMPLATE as DEFAULT_TCP_TEMPLATE
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values are never converted, nothing changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class ListenSection(Section):
    """Where clients reach the relay."""

    h3: ListenAddress = Endpoint(address=IPv6Address("::"), port=443)
    """UDP address of HTTP/3, `ADDRESS:PORT`. `[::]:443` takes IPv4 too. Port 0 lets the kernel
    choose. Read at start only."""
    https: HttpsAddress = HttpsListen.AUTO
    """TCP address of HTTP/2 and HTTP/1.1 over TLS, `ADDRESS:PORT`. `auto` is the address and port
    of HTTP/3; where that port is taken the relay says so and goes on without. `off` opens no TCP
    port. Read at start only."""
    secret_files: tuple[Path, ...] = ()
    """Files of at least 32 random bytes each, equal on all relays behind one address, so that each
    can validate the other's Retry tokens and reset its connections. The first one makes tokens, all
    are accepted. Without any, a key is made at every start. Read at start only."""
    socket: SocketLimits = SocketLimits()
    """Buffers and offloads of the UDP socket. Read at start only."""


class CertificateSection(Section):
    """One certificate and its key."""

    certificate_file: Path
    """PEM: the leaf first, then the intermediates."""
    key_file: Path
    """PEM private key of the leaf. ECDSA P-256 makes the smallest handshake."""


class TlsSection(CertificateSection):
    """The relay's own certificates. Client certificates are set up in `[gate.mtls]`."""

    more: tuple[CertificateSection, ...] = ()
    """Further certificates, chosen by the name that the client asks for (SNI)."""
    refuse_unknown_names: bool = False
    """Refuse a client that asks for a name which no certificate has, instead of giving it the first
    one."""
    require_client_certificate: bool = False
    """Refuse clients without a certificate during the handshake. Otherwise, with `[gate.mtls]`,
    they are asked for one and may use another credential."""


class QuicSection(Section):
    """The QUIC endpoint."""

    limits: QuicLimits = QuicLimits()
    """Caps and deadlines of the endpoint and of each connection."""
    h3: H3Limits = H3Limits()
    """Caps of the HTTP/3 framing. Read at start only."""
    qlog_dir: Path | None = None
    """Write one qlog file per connection to this directory; it slows the relay down. Read at start
    only."""
    keylog_file: Path | None = None
    """Write TLS secrets to this file for packet analysers: whoever reads it reads the traffic. Read
    at start only."""


class BindSection(Section):
    """Bound UDP (draft-ietf-masque-connect-udp-listen): clients that listen on a public port."""

    enabled: bool = False
    """Let clients ask for public UDP ports; the policy's `bind-udp` says who may, and which peers
    they may have. Read at start only."""
    addresses: tuple[AnyIpAddress, ...] = ()
    """Local addresses to bind, at most one of each family. Without any, `egress.ipv4` and
    `egress.ipv6`, or what the routing table chooses for the Internet. Read at start only."""
    public_addresses: tuple[AnyIpAddress, ...] = ()
    """What clients are told in the place of a bound address of the same family, where a 1:1 NAT
    that keeps ports stands before the relay. Read at start only."""
    first_port: PortNumber = 49_152
    """First port of the range; ports are drawn at random from it. Read at start only."""
    last_port: PortNumber = 65_535
    """Last port of the range. A firewall must let the whole range in. Read at start only."""
    inbound: Inbound = Inbound.POLICY
    """Which peers may send in: `policy`, all that the client may reach, which a listening program
    needs; `contacted`, only those to whose address the client has sent in the last minutes, as
    with TURN. Read at start only."""
    limits: BindLimits = BindLimits()
    """Contexts, peers and answers of each tunnel. Read at start only."""
    policy: PeerPolicyLimits = PeerPolicyLimits()
    """How often the policy is asked about each tunnel's peers. Read at start only."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.first_port > self.last_port:
            raise ValueError("first_port must not be above last_port")
        for name in ("addresses", "public_addresses"):
            versions = [address.version for address in getattr(self, name)]
            if len(set(versions)) != len(versions):
                raise ValueError(f"{name} must have at most one address of each family")
        return self


class ConnectUdpSection(Section):
    """CONNECT-UDP (RFC 9298)."""

    templates: tuple[UriTemplateText, ...] = (DEFAULT_TEMPLATE,)
    """URI templates, matched in this order, such as `/proxy{?target_host,target_port}`. Many
    clients know only the default one. Read at start only."""
    proxy_name: str = DEFAULT_PROXY_NAME
    """What the relay calls itself in `proxy-status` (RFC 9209). Read at start only."""
    bind: BindSection = BindSection()
    """Bound UDP, on the same templates."""


class ConnectTcpSection(Section):
    """TCP tunnels: classic CONNECT (RFC 9110) and connect-tcp (draft-ietf-httpbis-connect-tcp)."""

    classic: bool = True
    """Take classic CONNECT, which every HTTP client and browser speaks. Read at start only."""
    templates: tuple[UriTemplateText, ...] = (DEFAULT_TCP_TEMPLATE,)
    """URI templates of connect-tcp, matched in this order; an empty list turns it off. Read at
    start only."""
    data_capsule_type: CapsuleTypeNumber = DATA_CAPSULE
    """Type of the DATA capsule. IANA has not assigned the final number yet: this is the draft's for
    tests. Read at start only."""
    final_data_capsule_type: CapsuleTypeNumber = FINAL_DATA_CAPSULE
    """Type of the FINAL_DATA capsule; not the same. Read at start only."""

    @model_validator(mode="after")
    def _types_differ(self) -> Self:
        if self.data_capsule_type == self.final_data_capsule_type:
            raise ValueError("data_capsule_type and final_data_capsule_type must differ")
        return self


class DnsSection(Section):
    """How the names of targets are resolved."""

    servers: tuple[str, ...] = ()
    """Nameservers, `ADDRESS` or `ADDRESS:PORT`; without any, those of the system."""
    prefer: FamilyPreference = FamilyPreference.IPV6_FIRST
    """Which family of addresses is tried first (RFC 8305)."""
    hosts: dict[str, tuple[AnyIpAddress, ...]] = {}
    """Names with fixed addresses, which are never looked up: `"db.internal" = ["10.1.2.3"]`. The
    policy judges these addresses like any other."""
    limits: ResolverLimits = ResolverLimits()
    """Caps, deadlines and the cache of the resolver."""


class EgressSection(Section):
    """The sockets towards targets."""

    ipv4: IPv4Address | None = None
    """Source address of flows to IPv4 targets; without it the routing table chooses."""
    ipv6: IPv6Address | None = None
    """Source address of flows to IPv6 targets."""
    allow_own_addresses: bool = False
    """Whether tunnels may lead to public addresses of the relay's own host, behind its firewall."""
    limits: FlowLimits = FlowLimits()
    """Buffers and offloads of each socket."""


class AdminSection(Section):
    """The admin listener: health, metrics, API."""

    listen: AdminAddress = Endpoint(address=IPv4Address("127.0.0.1"), port=9443)
    """`ADDRESS:PORT` or `unix:PATH`. It speaks plain HTTP: keep it on loopback or a Unix socket.
    Read at start only."""
    token_file: Path
    """File with the bearer token of the API, at least 16 characters; nobody else should be able to
    read it. Read at start only."""
    limits: AdminLimits = AdminLimits()
    """Caps and deadlines of the admin listener."""


class LogFormat(StrEnum):
    """How a log record is written."""

    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least important records that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSection(Section):
    """The log, on standard error. It never holds credentials or identities."""

    level: LogLevel = LogLevel.INFO
    """Records below this are not written."""
    format: LogFormat = LogFormat.JSON
    """`json` is one object per line; `console` is for people."""


class DrainSection(Section):
    """The graceful end after SIGTERM or `ghostctl relay drain`."""

    wrap_up_subjects: tuple[str, ...] = ()
    """Identities whose clients are sent the capsule WRAP_UP (draft-ietf-httpbis-wrap-up) on every
    tunnel with capsules; `*` stands for any run of characters. Ours understands it. Some clients
    end a tunnel over a capsule that they do not know. Read at start only."""

    deadline_s: Seconds = 30.0
    """How long tunnels may go on before they are ended. A supervisor must wait longer than this
    (systemd: TimeoutStopSec)."""
    restart_deadline_s: Seconds = 3600.0
    """How long tunnels may go on in the old workers after `ghostctl relay restart`; the new ones
    serve meanwhile."""


class RelayConfig(Section):
    """A whole configuration file."""

    workers: WorkerCount | None = None
    """Processes behind the one port, 1 to 64. Without it there is one for each core that the relay
    may use; `--dev` runs one. Each is a whole relay; they share ports, policy and quotas. Read at
    start only: a restart keeps the number. With `[connect_ip]` there is one: its addresses come
    from one pool. With `[ghostwire]` and `[turn]` too: peers and TURN clients
    meet in one process."""
    listen: ListenSection = ListenSection()
    """Where clients reach the relay."""
    tls: TlsSection
    """Certificates."""
    quic: QuicSection = QuicSection()
    """The QUIC endpoint."""
    http: HttpLimits = HttpLimits()
    """Caps and deadlines of HTTP connections and requests."""
    tcp: TcpLimits = TcpLimits()
    """Caps and deadlines of HTTP/2 and HTTP/1.1 over TLS."""
    connect_udp: ConnectUdpSection = ConnectUdpSection()
    """CONNECT-UDP (RFC 9298)."""
    connect_tcp: ConnectTcpSection = ConnectTcpSection()
    """TCP tunnels: classic CONNECT and connect-tcp."""
    turn: TurnSection = TurnSection()
    """STUN and TURN."""
    connect_ip: ConnectIpSection = ConnectIpSection()
    """CONNECT-IP (RFC 9484): IP tunnels."""
    ghostwire: GhostwireSection = GhostwireSection()
    """The mesh: peers that meet at this relay."""
    derp: DerpSection = DerpSection()
    """Tailscale's relay protocol."""
    pvd: PvdSettings = PvdSettings()
    """Discovery: what `/.well-known/pvd` says."""
    dns: DnsSection = DnsSection()
    """How the names of targets are resolved."""
    upstream: UpstreamSection = UpstreamSection()
    """Another relay through which targets are reached."""
    egress: EgressSection = EgressSection()
    """The sockets towards targets."""
    gate: GateSettings
    """Who may do what: credentials, policy, quotas."""
    audit: AuditSettings = AuditSettings()
    """The audit trail: one record per decision and per tunnel end."""
    admin: AdminSection
    """The admin listener."""
    log: LogSection = LogSection()
    """The log."""
    drain: DrainSection = DrainSection()
    """The graceful end."""
