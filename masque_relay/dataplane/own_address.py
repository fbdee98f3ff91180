"""Owns the refusal of targets that are this very host under a public address.

Private and loopback addresses are the policy's business (it protects them by range). A public
address of the host is in no such range, and behind it wait services that a firewall hides from
everybody but the host itself, which is where a flow of ours would come from.
"""

import socket
from collections.abc import Sequence

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.flow import FlowError, FlowFault


def not_own(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints that are not this host's under a public address, in order.

    Raises:
        FlowError: none is left (DESTINATION_IP_PROHIBITED).
    """
    others = [endpoint for endpoint in endpoints if not is_own_public(endpoint.address)]
    if not others:
        raise FlowError(
            FlowFault.DESTINATION_IP_PROHIBITED,
            f"{endpoints[0]} is this host; egress.allow_own_addresses lifts that",
        )
    return others


def is_own_public(address: IPAddress) -> bool:
    """Whether a socket of this host can be bound to the address, and the address is public.

    Asking the kernel each time (some microseconds) keeps pace with addresses that come and go.
    """
    if not address.is_global or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
