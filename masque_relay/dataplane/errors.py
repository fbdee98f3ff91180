"""Owns the one table from OSError and c-ares statuses to FlowError."""

import errno

from masque_relay.contract.flow import FlowError, FlowFault

_FAULT_BY_ERRNO: dict[int, FlowFault] = {
    errno.ECONNREFUSED: FlowFault.CONNECTION_REFUSED,
    errno.EHOSTUNREACH: FlowFault.DESTINATION_UNAVAILABLE,
    errno.EHOSTDOWN: FlowFault.DESTINATION_UNAVAILABLE,
    errno.ENETUNREACH: FlowFault.DESTINATION_IP_UNROUTABLE,
    errno.ENETDOWN: FlowFault.DESTINATION_IP_UNROUTABLE,
    errno.EADDRNOTAVAIL: FlowFault.DESTINATION_IP_UNROUTABLE,
    errno.EAFNOSUPPORT: FlowFault.DESTINATION_IP_UNROUTABLE,
    errno.EINVAL: FlowFault.DESTINATION_IP_UNROUTABLE,
    # A firewall rule of this host, or a broadcast address without SO_BROADCAST.
    errno.EACCES: FlowFault.DESTINATION_IP_UNROUTABLE,
    errno.EPERM: FlowFault.DESTINATION_IP_UNROUTABLE,
    errno.EPROTO: FlowFault.DESTINATION_UNAVAILABLE,
    errno.ENOPROTOOPT: FlowFault.DESTINATION_UNAVAILABLE,
    errno.ETIMEDOUT: FlowFault.CONNECTION_TIMEOUT,
    errno.ECONNRESET: FlowFault.CONNECTION_TERMINATED,
    errno.EPIPE: FlowFault.CONNECTION_TERMINATED,
    errno.EMSGSIZE: FlowFault.DATAGRAM_TOO_LARGE,
    errno.EMFILE: FlowFault.RESOURCES,
    errno.ENFILE: FlowFault.RESOURCES,
    errno.ENOMEM: FlowFault.RESOURCES,
    errno.ENOBUFS: FlowFault.RESOURCES,
    # No free local port, or one that another socket holds.
    errno.EADDRINUSE: FlowFault.RESOURCES,
    errno.EAGAIN: FlowFault.RESOURCES,
}


def flow_error_from_os(error: OSError, what: str) -> FlowError:
    """Return the FlowError for an OSError.

    Args:
        error: as the socket call raised it.
        what: the action, for the log: ``connect to 192.0.2.1:53``.
    """
    fault = _FAULT_BY_ERRNO.get(error.errno or 0, FlowFault.DESTINATION_UNAVAILABLE)
    return FlowError(fault, f"{what}: {error.strerror or error}")


# ares.h: enum ares_status_t.
ARES_ENODATA = 1
ARES_EFORMERR = 2
ARES_ESERVFAIL = 3
ARES_ENOTFOUND = 4
ARES_ENOTIMP = 5
ARES_EREFUSED = 6
ARES_ETIMEOUT = 12

_RCODE_BY_STATUS: dict[int, str] = {
    ARES_ENOTFOUND: "NXDOMAIN",
    # The name exists, the type does not: the response code is NOERROR with no answer.
    ARES_ENODATA: "NOERROR",
    ARES_ESERVFAIL: "SERVFAIL",
    ARES_EREFUSED: "REFUSED",
    ARES_EFORMERR: "FORMERR",
    ARES_ENOTIMP: "NOTIMP",
}


def flow_error_from_dns(host: str, status: int) -> FlowError:
    """Return the FlowError for a c-ares status.

    RFC 9209 section 2.3.2: ``dns_error`` carries the response code where there is one.
    """
    if status == ARES_ETIMEOUT:
        return FlowError(FlowFault.DNS_TIMEOUT, f"resolve {host}: no answer in time")
    rcode = _RCODE_BY_STATUS.get(status)
    return FlowError(
        FlowFault.DNS_ERROR, f"resolve {host}: {rcode or f'c-ares status {status}'}", rcode=rcode
    )
