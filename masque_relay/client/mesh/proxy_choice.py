"""Owns which proxy leads out of this network: by hand, or as the environment says."""

import re
import urllib.request
from ipaddress import ip_address
from urllib.parse import urlsplit

from masque_relay.client.errors import AddressError, TunnelRefused

STRAIGHT = "none"
"""As an option: use no proxy, whatever the environment says."""
SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})

PROXY_REFUSALS = frozenset({401, 407})
"""The proxy wants a credential: RFC 9110 section 15.5.8, and what tinyproxy says to a wrong one."""

_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_HINT = "write http://[USER:PASSWORD@]HOST:PORT or socks5h://[USER:PASSWORD@]HOST:PORT"


def chosen_proxy(option: str | None, host: str) -> str | None:
    """Return the URL of the proxy to use towards a relay, or None for none.

    Args:
        option: what was asked for by hand; it wins. ``none`` goes straight.
        host: the relay's host, for NO_PROXY. Loopback addresses need no proxy of the environment.

    Raises:
        AddressError: the URL is none; its words never quote it, because it may hold a password.
    """
    if option is not None:
        return None if option == STRAIGHT else checked_proxy(option, origin="--proxy")
    found = urllib.request.getproxies_environment()
    url = found.get("https") or found.get("all")
    if not url or _is_loopback(host) or _is_named(host, found.get("no", "")):
        return None
    return checked_proxy(url, origin="HTTPS_PROXY" if found.get("https") else "ALL_PROXY")


def checked_proxy(url: str, *, origin: str) -> str:
    """Return a proxy's URL if it is one.

    Raises:
        AddressError: it is none; ``origin`` says where it came from.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressError(f"{origin} is no URL of a proxy", hint=_HINT) from None
    has_more = parts.path not in {"", "/"} or parts.query or parts.fragment
    if parts.scheme not in SCHEMES or port == 0 or has_more:
        raise AddressError(f"{origin} is no URL of a proxy", hint=_HINT)
    if not _HOST.fullmatch(parts.hostname or ""):
        raise AddressError(f"{origin} names no host", hint=_HINT)
    return url


def proxy_refuses() -> TunnelRefused:
    """Return the error for a proxy that does not take the credentials of its URL."""
    return TunnelRefused(407, "the proxy wants other credentials than it was given", hint=_HINT)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_named(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host, a domain above it, or ``*``."""
    for word in no_proxy.lower().replace(",", " ").split():
        name = word.lstrip(".")
        if word == "*" or host == name or host.endswith(f".{name}"):
            return True
    return False
