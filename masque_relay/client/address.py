"""Owns what a person writes: the relay's URL or template, a target, and LISTEN=TARGET."""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address

from masque_relay.client.errors import AddressError
from masque_relay.contract.address import Endpoint, IPAddress, Target
from masque_relay.wire.authority import parse_authority
from masque_relay.wire.connect_tcp import DEFAULT_TEMPLATE as DEFAULT_TCP_TEMPLATE
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE, parse_host, parse_port
from masque_relay.wire.errors import WireError
from masque_relay.wire.uri_template import UriTemplate

DEFAULT_RELAY_PORT = 443
LOOPBACK = IPv4Address("127.0.0.1")

_RELAY_URL = re.compile(r"https://([^/?#{}]+)(.*)", re.IGNORECASE | re.DOTALL)
_LISTEN_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_FORWARD_HINT = (
    "write LISTEN=TARGET, for example 127.0.0.1:5353=9.9.9.9:53 or [::1]:51820=vpn.example:51820"
)
_TARGET_HINT = "write HOST:PORT, for example 9.9.9.9:53, dns.example:53 or [2001:db8::1]:53"
_LISTEN_HINT = "write ADDRESS:PORT, for example 127.0.0.1:5353 or [::1]:5353; :5353 is on 127.0.0.1"
_RELAY_HINT = (
    "write https://HOST:PORT, or a template such as "
    "https://HOST:PORT/custom/{target_host}/{target_port}/"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """Where a relay is, and under which URI template it proxies UDP (RFC 9298 section 2)."""

    host: str
    """A DNS name, or an IP address without brackets: what the certificate must be good for."""
    port: int
    template: str = DEFAULT_TEMPLATE
    """Path and query of the URI template, with both variables in it."""
    tcp_template: str = DEFAULT_TCP_TEMPLATE
    """The same for ``connect-tcp``."""
    addresses: tuple[IPAddress, ...] = ()
    """Where it was found once; then the name is not looked up. A split tunnel may lead the name
    servers through the relay itself."""

    @classmethod
    def parse(cls, text: str, *, template: str | None = None) -> "RelayAddress":
        """Return the address for ``https://HOST[:PORT]``, or for a whole URI template.

        Args:
            text: the relay's URL; a path in it must be a template with both variables.
            template: a path that replaces the default one, as ``--template`` gives it; a whole URL
                is accepted where it names the same host and port.

        Raises:
            AddressError: not https, no host, a bad port, or a template that RFC 9298 does not take.
        """
        match = _RELAY_URL.fullmatch(text)
        if match is None:
            raise AddressError(f"{text!r} is not a relay's https URL", hint=_RELAY_HINT)
        try:
            host, port = parse_authority(match[1], default_port=DEFAULT_RELAY_PORT)
        except WireError as error:
            raise AddressError(f"{text!r}: {error.detail}", hint=_RELAY_HINT) from error
        path = match[2] if match[2] not in {"", "/"} else DEFAULT_TEMPLATE
        if template is None:
            return cls(host=host, port=port, template=_checked_template(path))
        if not template.startswith("/"):
            other = cls.parse(template)
            if (other.host, other.port) != (host, port):
                raise AddressError(
                    f"the template {template!r} is for another relay than {text!r}",
                    hint="give the template's path alone, beginning with /",
                )
            return other
        return cls(host=host, port=port, template=_checked_template(template))

    @property
    def authority(self) -> str:
        """``:authority`` of requests: host and port, IPv6 in brackets, port 443 left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_RELAY_PORT else f"{host}:{self.port}"

    def path_for(self, target: Target) -> str:
        """Return ``:path`` for a target; IPv6 is percent-encoded (RFC 9298 section 3)."""
        variables = {"target_host": str(target.host), "target_port": str(target.port)}
        return _template(self.template).expand_path(variables)

    def tcp_path_for(self, target: Target) -> str:
        """Return ``:path`` of a ``connect-tcp`` request for a target."""
        variables = {"target_host": str(target.host), "target_port": str(target.port)}
        return _template(self.tcp_template).expand_path(variables)

    @property
    def bind_path(self) -> str:
        """``:path`` for bound UDP: no target (connect-udp-listen section 2), percent-encoded."""
        return _template(self.template).expand_path({"target_host": "*", "target_port": "*"})

    def __str__(self) -> str:
        """Return the relay's URL without the template."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSpec:
    """One LISTEN=TARGET."""

    listen: Endpoint
    """Where to bind; port 0 lets the kernel choose."""
    target: Target

    @classmethod
    def parse(cls, text: str) -> "ForwardSpec":
        """Return the forward for ``ADDRESS:PORT=HOST:PORT``.

        ``:PORT=...`` and ``localhost:PORT=...`` listen on 127.0.0.1: whoever wants other machines
        to use the tunnel must write 0.0.0.0 or [::] on purpose.

        Raises:
            AddressError: either side cannot be read.
        """
        listen, separator, target = text.partition("=")
        if not separator:
            raise AddressError(f"{text!r} has no '='", hint=_FORWARD_HINT)
        return cls(listen=parse_listen(listen), target=parse_target(target))

    def __str__(self) -> str:
        """Return LISTEN=TARGET as the command line takes it."""
        return f"{self.listen}={self.target}"


def parse_target(text: str) -> Target:
    """Return the target for ``HOST:PORT``; a name in any case, an IPv6 address in brackets.

    Raises:
        AddressError: no port, a port outside 1..65535, or a host that is neither name nor address.
    """
    host, port = _split_port(text, _TARGET_HINT)
    return _target(host, port)


def make_target(host: str, port: int) -> Target:
    """Return the target for a host as people write it (no brackets) and a port.

    Raises:
        AddressError: a port outside 1..65535, or a host that is neither an A-label name nor an
            address.
    """
    return _target(host, str(port))


def parse_listen(text: str) -> Endpoint:
    """Return where to listen, for ``ADDRESS:PORT``; ``:PORT`` is on 127.0.0.1, port 0 a free one.

    Raises:
        AddressError: no IP address, or no port.
    """
    host, digits = _split_port(text, _LISTEN_HINT)
    if not _LISTEN_PORT.fullmatch(digits) or int(digits) > 65_535:
        raise AddressError(f"{text!r}: {digits!r} is not a port", hint=_LISTEN_HINT)
    if host in {"", "localhost"}:
        return Endpoint(address=LOOPBACK, port=int(digits))
    try:
        address = ip_address(host)
    except ValueError:
        raise AddressError(
            f"{text!r}: the listening side must be an IP address", hint=_LISTEN_HINT
        ) from None
    return Endpoint(address=address, port=int(digits))


def _target(host: str, port: str) -> Target:
    try:
        return Target(host=parse_host(host), port=parse_port(port))
    except WireError as error:
        raise AddressError(error.detail, hint=_TARGET_HINT) from error


def _split_port(text: str, hint: str) -> tuple[str, str]:
    host, separator, digits = text.rpartition(":")
    if not separator or digits.endswith("]"):
        raise AddressError(f"{text!r} has no port", hint=hint)
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], digits
    if ":" in host:
        raise AddressError(f"{text!r}: put the IPv6 address in brackets", hint=hint)
    return host, digits


@lru_cache(maxsize=16)
def _template(path: str) -> UriTemplate:
    return UriTemplate.parse(path, required=("target_host", "target_port"))


def _checked_template(path: str) -> str:
    try:
        _template(path)
    except WireError as error:
        raise AddressError(
            f"template {path!r}: {error.detail}", hint=f"the default is {DEFAULT_TEMPLATE}"
        ) from error
    return path
