"""Owns what the gate is asked on behalf of a STUN client, and what such a client is counted by."""

import secrets

from fallbacks.turn.authentication import Presented
from fallbacks.turn.path import ClientPath
from masque_relay.contract.address import Endpoint
from masque_relay.contract.request import Method, RelayRequest, Transport


def relay_request(path: ClientPath, presented: Presented, method: Method) -> RelayRequest:
    """Return what the gate is asked; peers come later, so there is no target."""
    return RelayRequest(
        request_id=secrets.token_hex(8),
        transport=Transport.TURN,
        method=method,
        target=None,
        credentials=(presented.credential,),
        source=path.client,
    )


def source_key(client: Endpoint) -> bytes:
    """Return what a client is counted by: an IPv4 address or an IPv6 /64, packed."""
    packed = client.address.packed
    return packed if len(packed) == 4 else packed[:8]
