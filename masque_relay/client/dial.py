"""Owns the way to a relay: its addresses, the QUIC handshake, and what a failure means."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

from masque_relay.client.address import RelayAddress
from masque_relay.client.errors import (
    ClientError,
    RelayTimeout,
    RelayUnreachable,
    RelayUntrusted,
)
from masque_relay.client.limits import ClientLimits
from masque_relay.client.probe import ClosedPortProbe
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import Clock
from masque_relay.quic.application import ApplicationFactory
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ClientTls, ConnectFailed

H3_ALPN = "h3"
MAX_ADDRESSES = 8  # tried of one name; each gets a share of the connect deadline

_NO_ERROR = 0x00
_CONNECTION_REFUSED = 0x02  # RFC 9000 section 20.1
_CRYPTO_ERROR = 0x100  # plus the TLS alert
_NO_APPLICATION_PROTOCOL = 120
_CERTIFICATE_REQUIRED = 116
_UNRECOGNIZED_NAME = 112
_ALERTS_ABOUT_OUR_CERTIFICATE = frozenset({_CERTIFICATE_REQUIRED})

_SILENCE_HINT = (
    "check that the relay runs and that UDP to its port is not blocked on the way; "
    "`ghostctl relay status` on its machine shows where it listens"
)


async def relay_endpoints(address: RelayAddress, limits: ClientLimits) -> tuple[Endpoint, ...]:
    """Return the relay's addresses, those known or what the system resolver gives; at least one.

    Raises:
        RelayUnreachable: the name has no address.
        RelayTimeout: the resolver did not answer in time.
    """
    if address.addresses:
        return tuple(Endpoint(address=known, port=address.port) for known in address.addresses)
    try:
        literal = ip_address(address.host)
    except ValueError:
        pass
    else:
        return (Endpoint(address=literal, port=address.port),)
    try:
        async with asyncio.timeout(limits.resolve_timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(
                address.host, address.port, type=socket.SOCK_DGRAM
            )
    except TimeoutError:
        raise RelayTimeout(
            f"the name {address.host} did not resolve within {limits.resolve_timeout_s:g} s",
            hint="check this machine's DNS, or give the relay's address",
        ) from None
    except OSError as error:
        raise RelayUnreachable(
            f"the name {address.host} does not resolve: {error.strerror}",
            hint="check the spelling of --relay and this machine's DNS",
        ) from error
    hosts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return tuple(
        Endpoint(address=ip_address(host), port=address.port)
        for host in list(hosts)[:MAX_ADDRESSES]
    )


async def connect_any(
    endpoint: QuicEndpoint,
    address: RelayAddress,
    *,
    application: ApplicationFactory,
    tls: ClientTls,
    limits: ClientLimits,
    clock: Clock,
    alpn: str = H3_ALPN,
) -> Endpoint:
    """Open a QUIC connection to the first of the relay's addresses that answers; return it.

    Raises:
        RelayUnreachable: none answered within ``limits.connect_timeout_s``.
        RelayUntrusted: TLS failed with one that did; others are not tried, because they are meant
            to be the same relay.
        RelayTimeout: the relay's name did not resolve in time.
    """
    endpoints = await relay_endpoints(address, limits)
    deadline_s = clock.monotonic_s() + limits.connect_timeout_s
    failure: ClientError | None = None
    for index, destination in enumerate(endpoints):
        share_s = (deadline_s - clock.monotonic_s()) / (len(endpoints) - index)
        if share_s <= 0:
            break
        try:
            async with _unless_closed(destination):
                await endpoint.connect(
                    destination,
                    server_name=address.host,
                    alpn=alpn,
                    application=application,
                    tls=tls,
                    timeout_s=share_s,
                )
        except RelayUnreachable as error:
            failure = error
        except ConnectFailed as error:
            failure = failure_from(error, address, endpoints)
            if isinstance(failure, RelayUntrusted):
                raise failure from error
        except FlowError as error:
            failure = RelayUnreachable(
                f"no way to {destination}: {error.detail}", hint="check this machine's network"
            )
        else:
            return destination
    raise failure or _nothing_answered(address, endpoints)


@asynccontextmanager
async def _unless_closed(destination: Endpoint) -> AsyncGenerator[None]:
    """End the block with RelayUnreachable as soon as the network says that nobody listens there."""
    loop = asyncio.get_running_loop()
    heard: list[FlowError] = []
    scope = asyncio.timeout(None)

    def give_up(error: FlowError) -> None:
        heard.append(error)
        scope.reschedule(loop.time())

    probe = ClosedPortProbe(destination, give_up)
    try:
        async with scope:
            yield
    except TimeoutError:
        if not heard:
            raise
        if heard[0].fault is FlowFault.CONNECTION_REFUSED:
            raise RelayUnreachable(
                f"nothing listens on UDP {destination}",
                hint="check that the relay runs, and its port in --relay",
            ) from heard[0]
        raise RelayUnreachable(
            f"no way to {destination}: {heard[0].detail}", hint="check this machine's network"
        ) from heard[0]
    finally:
        probe.close()


def failure_from(
    error: ConnectFailed, address: RelayAddress, endpoints: Sequence[Endpoint]
) -> ClientError:
    """Return what a failed QUIC handshake means to a person."""
    code = error.error_code
    if code is None or code == _NO_ERROR:
        return _nothing_answered(address, endpoints)
    if code == _CONNECTION_REFUSED:
        return RelayUnreachable(
            f"the relay at {address} takes no new connections: {error.reason or 'refused'}",
            hint="it is draining or full; try again later, or another relay",
        )
    if not _CRYPTO_ERROR <= code < _CRYPTO_ERROR + 256:
        return RelayUnreachable(
            f"the handshake with {address} failed: {error.reason or hex(code)}",
            hint="check that --relay names a relay",
        )
    alert = code - _CRYPTO_ERROR
    reason = error.reason or f"TLS alert {alert}"
    if alert == _NO_APPLICATION_PROTOCOL:
        hint = "what listens there does not speak HTTP/3; check --relay"
    elif alert in _ALERTS_ABOUT_OUR_CERTIFICATE:
        hint = "the relay asks for a certificate: give --client-cert and --client-key"
    elif alert == _UNRECOGNIZED_NAME:
        hint = f"the relay has no certificate for {address.host}; check the name in --relay"
    else:
        hint = (
            f"give the CA that signed the relay's certificate with --ca, and name the relay as its "
            f"certificate does (now: {address.host})"
        )
    return RelayUntrusted(f"TLS with {address} failed: {reason}", hint=hint)


def _nothing_answered(address: RelayAddress, endpoints: Sequence[Endpoint]) -> RelayUnreachable:
    tried = ", ".join(map(str, endpoints))
    return RelayUnreachable(f"nothing answers at {address} (UDP {tried})", hint=_SILENCE_HINT)
