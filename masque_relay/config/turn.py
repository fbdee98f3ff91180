"""Owns the section `[turn]`: STUN and TURN, off unless a listener is named."""

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from masque_relay.config.values import AnyIpAddress, ListenAddress, PortNumber
from masque_relay.contract.turn_limits import TurnLimits


class TurnSection(BaseModel):
    """STUN and TURN (RFC 8489, RFC 8656). Without a listener there is no socket and no route."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    udp: tuple[ListenAddress, ...] = ()
    """UDP addresses for clients, such as `["[::]:3478"]`. Read at start only."""
    tcp: tuple[ListenAddress, ...] = ()
    """TCP addresses for clients, such as `["[::]:3478"]`. Read at start only."""
    tls: tuple[ListenAddress, ...] = ()
    """TCP addresses for clients with TLS, such as `["[::]:5349"]`; the certificates of `[tls]`.
    Read at start only."""
    on_https_port: bool = False
    """Serve clients that ask for the ALPN `stun.turn` on the HTTPS port too: it is open where 5349
    is not. Read at start only."""
    on_h3_port: bool = False
    """Serve UDP clients on the port of HTTP/3 too, told apart by the client's address and STUN's
    cookie (RFC 9443). Read at start only."""
    realm: str = "ghostwire"
    """What the keys of users are bound to; changing it makes every stored TURN key useless."""
    relay_addresses: tuple[AnyIpAddress, ...] = ()
    """Local addresses on which peers reach clients, at most one of each family. Without any, those
    of the listeners, unless they are wildcards. Read at start only."""
    external_addresses: tuple[AnyIpAddress, ...] = ()
    """What clients are told in the place of a relay address of the same family: the outside of a
    1:1 NAT, which must keep ports. Read at start only."""
    first_port: PortNumber = 49_152
    """The first port of relayed addresses; RFC 8656 section 7.2 recommends the dynamic ports."""
    last_port: PortNumber = 65_535
    """The last port of relayed addresses."""
    other_address: ListenAddress | None = None
    """A second address and port of this host, both other than the first of `udp`, for NAT behaviour
    discovery (RFC 5780). Read at start only."""
    alternate_servers: tuple[ListenAddress, ...] = ()
    """Where clients are sent while this relay drains (ALTERNATE-SERVER), the first of their family
    counts. Without any they hear that there is no room."""
    server_name: str = ""
    """What third parties know this relay by, offered to clients (RFC 7635); `gate.stun.token_keys`
    has their keys. Empty: not offered."""
    software: str = ""
    """SOFTWARE in answers; empty: clients are not told."""
    limits: TurnLimits = TurnLimits()
    """Caps and deadlines."""

    @property
    def is_on(self) -> bool:
        """Whether anything of it is to run."""
        return bool(self.udp or self.tcp or self.tls or self.on_https_port or self.on_h3_port)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.first_port > self.last_port:
            raise ValueError("first_port is above last_port")
        for name in ("relay_addresses", "external_addresses"):
            versions = [address.version for address in getattr(self, name)]
            if len(versions) != len(set(versions)):
                raise ValueError(f"{name} has two addresses of one family")
        if not self.realm or len(self.realm.encode()) > 127 or ":" in self.realm:
            raise ValueError("realm must have 1 to 127 bytes and no colon")
        return self

    @model_validator(mode="after")
    def _other_address_differs(self) -> Self:
        other = self.other_address
        if other is None:
            return self
        if not self.udp:
            raise ValueError("other_address needs an address in udp")
        first = self.udp[0]
        if (
            other.address == first.address
            or other.port == first.port
            or other.address.version != first.address.version
            or first.address.is_unspecified
            or other.address.is_unspecified
        ):
            raise ValueError(
                "other_address must differ from the first of udp in address and in port, "
                "and neither may be a wildcard"
            )
        return self
