"""Owns the choice of one port number for two sockets: HTTP/3 over UDP and HTTPS over TCP."""

import contextlib
import socket

from masque_relay.contract.address import Endpoint
from masque_relay.http.tcp_front import open_listener

MAX_ATTEMPTS = 32
"""On a busy machine every tenth number may be somebody's outgoing TCP connection."""


def with_twin_port(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint of port 0 with a number that is free for both; others as they are.

    A UDP port that the kernel chooses says nothing of the TCP port of that number, where HTTPS
    would not be found then. Nothing holds the number until the caller binds it. An address that
    can't be bound at all is returned as it is: whoever binds it has the better words.
    """
    if endpoint.port:
        return endpoint
    for _ in range(MAX_ATTEMPTS):
        with contextlib.suppress(OSError), open_listener(endpoint) as listener:
            port: int = listener.getsockname()[1]
            with socket.socket(listener.family, socket.SOCK_DGRAM) as twin:
                twin.bind((str(endpoint.address), port))
                return Endpoint(address=endpoint.address, port=port)
    return endpoint
