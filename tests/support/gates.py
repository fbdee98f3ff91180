"""A gate with real keys and files, a clock that is set by hand, and an audit trail that is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.lease import Lease
from masque_relay.contract.request import (
    BearerToken,
    Credential,
    Method,
    RelayRequest,
    Transport,
)
from masque_relay.contract.verdict import Denial, EndReason
from masque_relay.control.auth.keys import generate_signing_key, write_signing_key
from masque_relay.control.auth.tokens import issue_token
from masque_relay.control.gate import RelayGate
from masque_relay.control.gate_build import build_gate
from masque_relay.control.leases import RelayLease
from masque_relay.control.settings import BearerSettings, GateLimits, GateSettings, IssuerSettings

NOW_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z, a Tuesday
AUDIENCE = "relay.example"
ISSUER = "https://issuer.example"

WEB_POLICY = """
[[rule]]
name = "web"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["*:443"]
"""


class FakeClock:
    """Both clocks stand still until they are moved."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self._wall_s = now_s
        self._monotonic_s = 5_000.0

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def wall_s(self) -> float:
        return self._wall_s

    def advance(self, seconds: float) -> None:
        self._wall_s += seconds
        self._monotonic_s += seconds


class RecordingAudit:
    """Keeps every record."""

    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []

    def write(self, record: Mapping[str, object]) -> None:
        self.records.append(dict(record))

    def of(self, event: str) -> list[dict[str, object]]:
        return [record for record in self.records if record["event"] == event]


class EndRecorder:
    """The holder of a lease: notes why the control plane ended it, and gives it back."""

    def __init__(self, lease: Lease) -> None:
        self.reasons: list[EndReason] = []
        self._lease = lease
        lease.on_end(self._ended)

    def _ended(self, reason: EndReason) -> None:
        self.reasons.append(reason)
        self._lease.release(EndReason.PEER_CLOSED)


class GateBench:
    """One gate in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        policy: str = WEB_POLICY,
        limits: GateLimits | None = None,
        change: Callable[[GateSettings], GateSettings] = lambda settings: settings,
    ) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.audit = RecordingAudit()
        self.policy_file = directory / "policy.toml"
        self.policy_file.write_text(policy)
        self.key = generate_signing_key()
        _, public_key_file = write_signing_key(self.key, directory)
        self.settings = change(
            GateSettings(
                policy_file=self.policy_file,
                bearer=BearerSettings(
                    audiences=(AUDIENCE,),
                    issuers=(IssuerSettings(issuer=ISSUER, key_files=(public_key_file,)),),
                ),
                limits=limits or GateLimits(),
            )
        )
        self.gate: RelayGate = build_gate(self.settings, clock=self.clock, audit=self.audit)

    def token(
        self,
        subject: str = "alice",
        *,
        lifetime_s: float = 3600,
        groups: Sequence[str] = (),
        token_id: str | None = None,
        audience: str = AUDIENCE,
        peer_id: bytes | None = None,
    ) -> str:
        return issue_token(
            self.key,
            subject=subject,
            audience=audience,
            issuer=ISSUER,
            lifetime_s=lifetime_s,
            now_s=self.clock.wall_s(),
            groups=groups,
            token_id=token_id,
            peer_id=peer_id,
        )

    def request(
        self,
        target: str | None = "example.org:443",
        *,
        subject: str = "alice",
        credentials: tuple[Credential, ...] | None = None,
        transport: Transport = Transport.HTTP3,
        method: Method = Method.CONNECT_UDP,
        groups: Sequence[str] = (),
    ) -> RelayRequest:
        if credentials is None:
            credentials = (BearerToken(token=self.token(subject, groups=groups)),)
        return RelayRequest(
            request_id="r-1",
            transport=transport,
            method=method,
            target=None if target is None else parse_endpoint(target),
            credentials=credentials,
            source=Endpoint(address=ip_address("203.0.113.9"), port=50_000),
        )

    async def open(self, request: RelayRequest | None = None) -> RelayLease:
        lease = await self.gate.admit(request or self.request())
        assert isinstance(lease, RelayLease), lease
        return lease

    async def denied(self, request: RelayRequest | None = None) -> Denial:
        denial = await self.gate.admit(request or self.request())
        assert isinstance(denial, Denial), denial
        return denial

    def reload(self, policy: str | None = None, **changes: object) -> int:
        if policy is not None:
            self.policy_file.write_text(policy)
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]  # fields by name
        return self.gate.reload(settings)


def parse_endpoint(text: str) -> Target:
    """Return the target of ``example.org:443`` or ``[::1]:443``."""
    host, _, port = text.rpartition(":")
    try:
        return Target(host=ip_address(host.strip("[]")), port=int(port))
    except ValueError:
        return Target(host=host, port=int(port))
