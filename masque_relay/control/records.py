"""Owns the audit records of the gate's decisions and of the ends of tunnels."""

from masque_relay.contract.request import RelayRequest
from masque_relay.contract.verdict import Denial
from masque_relay.control.audit import format_time
from masque_relay.control.auth.principal import Principal
from masque_relay.control.leases import LeaseEnd, RelayLease, describe_target


def decision_record(
    request: RelayRequest,
    principal: Principal | None,
    lease: RelayLease | None,
    denial: Denial | None,
    *,
    policy_digest: str,
    now_s: float,
) -> dict[str, object]:
    """Return the record of one decision; never holds a secret."""
    record: dict[str, object] = {
        "at": format_time(now_s),
        "event": "decision",
        "result": "allow" if denial is None else "deny",
        **_request_fields(request),
        "policy": policy_digest,
    }
    if principal is not None:
        record |= _principal_fields(principal)
    if lease is not None:
        record |= {"lease_id": lease.lease_id, "rule": lease.rule}
    if denial is not None:
        record |= {"reason": denial.reason.value, "detail": denial.detail}
        record["rule"] = denial.rule
    return record


def end_record(end: LeaseEnd, *, now_s: float) -> dict[str, object]:
    """Return the record of one tunnel's end."""
    lease, request = end.lease, end.lease.request
    return {
        "at": format_time(now_s),
        "event": "tunnel_end",
        "reason": end.reason.value,
        "detail": end.detail,
        "lease_id": lease.lease_id,
        "rule": lease.rule,
        "addresses": [str(address) for address in lease.addresses],
        **_request_fields(request),
        **_principal_fields(lease.principal),
        "age_s": round(end.age_s, 3),
        "uplink_datagrams": lease.uplink.datagram_count,
        "uplink_bytes": lease.uplink.byte_count,
        "downlink_datagrams": lease.downlink.datagram_count,
        "downlink_bytes": lease.downlink.byte_count,
        "dropped_datagrams": lease.uplink.dropped_count + lease.downlink.dropped_count,
    }


def _request_fields(request: RelayRequest) -> dict[str, object]:
    return {
        "request_id": request.request_id,
        "transport": request.transport.value,
        "method": request.method.value,
        "target": describe_target(request) or None,
        "source": str(request.source),
    }


def _principal_fields(principal: Principal) -> dict[str, object]:
    return {
        "subject": principal.subject,
        "credential": principal.method.value,
        "token_id": principal.token_id,
    }
