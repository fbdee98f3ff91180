"""Owns the PvD document: RFC 8801 with the proxies of draft-ietf-intarea-proxy-config-14."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from masque_relay.contract.policy_view import PolicyView, ReachRule
from masque_relay.contract.request import Method

MEDIA_TYPE = "application/pvd+json"
IDENTIFIERS = {
    Method.CONNECT_TCP: "tcp",
    Method.CONNECT_UDP: "udp",
    Method.CONNECT_IP: "ip",
}
"""How rules refer to proxies; in the order in which a client should prefer them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOffer:
    """One way to use the relay as a proxy."""

    method: Method
    protocol: str
    """``connect-udp``, ``https-connect``, ...: the draft's registry."""
    template: str | None
    """URI template, whole or without scheme and authority; None where host and port are all there
    is to say."""


def build_document(
    authority: str,
    host: str,
    offers: Sequence[ProxyOffer],
    *,
    alpn: Sequence[str],
    view: PolicyView | None,
    expires_s: float,
) -> dict[str, object]:
    """Return the document for one relay, JSON-ready.

    Args:
        authority: host and port at which the client found us.
        host: its host alone.
        offers: what we can be used for.
        alpn: the HTTP versions that we speak.
        view: what the asking identity may reach; None leaves it open (a public document).
        expires_s: seconds since the epoch.
    """
    document: dict[str, object] = {
        "identifier": host,
        "expires": datetime.fromtimestamp(expires_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "prefixes": [],
        "proxies": [
            _proxy(authority, offer, alpn=alpn, names_it=view is not None) for offer in offers
        ],
    }
    if view is not None:
        offered = {offer.method for offer in offers}
        rules = [_rule(rule, offered) for rule in view.rules]
        document["proxy-match"] = [rule for rule in rules if rule is not None]
    return document


def _proxy(
    authority: str, offer: ProxyOffer, *, alpn: Sequence[str], names_it: bool
) -> dict[str, object]:
    if offer.template is None:
        has_port = authority.rpartition(":")[2].isdigit()
        location = authority if has_port else f"{authority}:443"
    elif offer.template.startswith("https://"):
        location = offer.template
    else:
        location = f"https://{authority}{offer.template}"
    proxy: dict[str, object] = {
        "protocol": offer.protocol,
        "proxy": location,
        "alpn": list(alpn),
    }
    if names_it:  # a proxy with an identifier is for what proxy-match says, and nothing else
        proxy["identifier"] = IDENTIFIERS[offer.method]
    return proxy


def _rule(rule: ReachRule, offered: set[Method]) -> dict[str, object] | None:
    """Return a destination rule; None where nothing that we offer carries what it allows."""
    proxies = [
        identifier
        for method, identifier in IDENTIFIERS.items()
        if method in rule.methods and method in offered
    ]
    if rule.methods and not proxies:
        return None
    written: dict[str, object] = {"proxies": proxies}
    if rule.domains:
        written["domains"] = list(rule.domains)
    if rule.subnets:
        written["subnets"] = [str(network) for network in rule.subnets]
    if rule.ports:
        written["ports"] = [
            str(first) if first == last else f"{first}-{last}" for first, last in rule.ports
        ]
    return written
