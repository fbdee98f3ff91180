"""The way from a target to admitted addresses."""

from ipaddress import ip_address

from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.request import Method, RelayRequest, Transport
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.denials import Refusal
from masque_relay.http.target_addresses import admitted_addresses
from tests.support.http_fakes import FakeDataplane, FakeGate, FakeLease

PROHIBITED = Denial(reason=DenyReason.ADDRESS_PROHIBITED, detail="metadata service")


class Bench:
    def __init__(self, host: str) -> None:
        try:
            self.target = Target(host=ip_address(host), port=80)
        except ValueError:
            self.target = Target(host=host, port=80)
        self.gate, self.dataplane = FakeGate(), FakeDataplane()
        self.lease = FakeLease(
            RelayRequest(
                request_id="r-1",
                transport=Transport.HTTP2,
                method=Method.CONNECT_TCP,
                target=self.target,
                credentials=(),
                source=Endpoint(address=ip_address("198.51.100.9"), port=50_000),
            )
        )
        self.admission = Admission(self.lease)

    async def run(self) -> list[str] | Refusal:
        found = await admitted_addresses(
            self.admission,
            self.target,
            gate=self.gate,
            dataplane=self.dataplane,
            resolve_timeout_s=1,
            speaks_to_proxy=True,
        )
        return found if isinstance(found, Refusal) else list(map(str, found))


async def test_literal_address_is_shown_to_the_gate_too() -> None:
    bench = Bench("192.0.2.7")
    assert await bench.run() == ["192.0.2.7"]
    assert bench.gate.addresses == [(ip_address("192.0.2.7"), 80)]


async def test_every_address_of_a_name_is_judged_and_only_admitted_ones_are_left() -> None:
    bench = Bench("example.org")
    bench.dataplane.names["example.org"] = ("169.254.169.254", "192.0.2.7", "2001:db8::7")
    bench.gate.prohibited[ip_address("169.254.169.254")] = PROHIBITED
    assert await bench.run() == ["192.0.2.7", "2001:db8::7"]
    assert len(bench.gate.addresses) == 3


async def test_no_admitted_address_is_a_refusal() -> None:
    bench = Bench("example.org")
    bench.dataplane.names["example.org"] = ("169.254.169.254",)
    bench.gate.prohibited[ip_address("169.254.169.254")] = PROHIBITED
    refusal = await bench.run()
    assert isinstance(refusal, Refusal)
    assert refusal.error == "destination_ip_prohibited"
    assert bench.admission.end_reason is EndReason.DENIED


async def test_name_without_an_address_is_a_dns_error() -> None:
    for answer in ((), FlowError(FlowFault.DNS_ERROR, "no", rcode="NXDOMAIN")):
        bench = Bench("nowhere.example")
        bench.dataplane.names["nowhere.example"] = answer
        refusal = await bench.run()
        assert isinstance(refusal, Refusal)
        assert refusal.error == "dns_error"
        assert bench.admission.end_reason is EndReason.TARGET_FAILED


async def test_lease_that_ends_while_the_name_is_resolved_is_a_refusal() -> None:
    bench = Bench("192.0.2.7")
    bench.lease.end(EndReason.REVOKED)
    refusal = await bench.run()
    assert isinstance(refusal, Refusal)
    assert refusal.status == 403
    assert bench.admission.end_reason is EndReason.REVOKED
    assert bench.gate.addresses == []
