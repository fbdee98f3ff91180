"""Tests the table from OSError and c-ares statuses to FlowError."""

import errno

import pycares
import pytest

from masque_relay.contract.flow import FlowFault
from masque_relay.dataplane import errors
from masque_relay.dataplane.errors import flow_error_from_dns, flow_error_from_os


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (errno.ECONNREFUSED, FlowFault.CONNECTION_REFUSED),
        (errno.EHOSTUNREACH, FlowFault.DESTINATION_UNAVAILABLE),
        (errno.ENETUNREACH, FlowFault.DESTINATION_IP_UNROUTABLE),
        (errno.EADDRNOTAVAIL, FlowFault.DESTINATION_IP_UNROUTABLE),
        (errno.EMSGSIZE, FlowFault.DATAGRAM_TOO_LARGE),
        (errno.EMFILE, FlowFault.RESOURCES),
        (errno.EADDRINUSE, FlowFault.RESOURCES),
        (errno.ETIMEDOUT, FlowFault.CONNECTION_TIMEOUT),
    ],
)
def test_each_errno_has_its_fault(code: int, fault: FlowFault) -> None:
    error = flow_error_from_os(OSError(code, "words"), "connect to 192.0.2.1:53")
    assert error.fault is fault
    assert error.detail == "connect to 192.0.2.1:53: words"


def test_an_unknown_errno_is_an_unavailable_destination() -> None:
    assert flow_error_from_os(OSError("odd"), "x").fault is FlowFault.DESTINATION_UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "rcode"),
    [
        (pycares.errno.ARES_ENOTFOUND, "NXDOMAIN"),
        (pycares.errno.ARES_ENODATA, "NOERROR"),
        (pycares.errno.ARES_ESERVFAIL, "SERVFAIL"),
        (pycares.errno.ARES_EREFUSED, "REFUSED"),
        (pycares.errno.ARES_EFORMERR, "FORMERR"),
        (pycares.errno.ARES_ENOTIMP, "NOTIMP"),
        (pycares.errno.ARES_ECONNREFUSED, None),
    ],
)
def test_dns_errors_carry_the_response_code(status: int, rcode: str | None) -> None:
    """RFC 9209 section 2.3.2."""
    error = flow_error_from_dns("name.example", status)
    assert (error.fault, error.rcode) == (FlowFault.DNS_ERROR, rcode)


def test_a_dns_timeout_is_its_own_fault() -> None:
    assert pycares.errno.ARES_ETIMEOUT == errors.ARES_ETIMEOUT
    assert flow_error_from_dns("x", errors.ARES_ETIMEOUT).fault is FlowFault.DNS_TIMEOUT
