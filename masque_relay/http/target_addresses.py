"""Owns the way from a target to addresses that the gate admitted, for every kind of tunnel."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from masque_relay.contract.address import IPAddress, Target
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import Dataplane, Gate
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.denials import Refusal, refuse_denial, refuse_flow_error


async def admitted_addresses(
    admission: Admission,
    target: Target,
    *,
    gate: Gate,
    dataplane: Dataplane,
    resolve_timeout_s: float,
    speaks_to_proxy: bool,
) -> Sequence[IPAddress] | Refusal:
    """Resolve the target and ask the gate about every address; return those it admits.

    Where there is none, the admission is closed and the refusal says why.
    """
    try:
        addresses = await _resolve(target, dataplane, resolve_timeout_s)
    except FlowError as error:
        admission.close(EndReason.TARGET_FAILED, str(error))
        return refuse_flow_error(error)
    if admission.ended_by_gate is not None:
        admission.close(admission.ended_by_gate)
        denial = Denial(reason=DenyReason.POLICY, detail="ended while resolving")
        return refuse_denial(denial, speaks_to_proxy=speaks_to_proxy)
    verdicts = [
        (address, gate.admit_address(admission.lease, address, target.port))
        for address in addresses
    ]
    admitted = [address for address, denial in verdicts if denial is None]
    if admitted:
        return admitted
    denials = [denial for _, denial in verdicts if denial is not None]
    admission.close(EndReason.DENIED, denials[0].detail)
    return refuse_denial(denials[0], speaks_to_proxy=speaks_to_proxy)


async def _resolve(
    target: Target, dataplane: Dataplane, resolve_timeout_s: float
) -> Sequence[IPAddress]:
    host = target.host
    if isinstance(host, IPv4Address | IPv6Address):
        return (host,)
    addresses = await dataplane.resolve(host, timeout_s=resolve_timeout_s)
    if not addresses:
        raise FlowError(FlowFault.DNS_ERROR, "the resolver returned no address")
    return addresses
