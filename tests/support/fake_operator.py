"""Owns a recording operator: the admin plane's tests look at what it was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from masque_relay.contract.errors import OperationRefused
from masque_relay.contract.ports import ReloadReport, TunnelSnapshot

TUNNEL = TunnelSnapshot(
    lease_id="lease-1",
    subject="alice",
    rule="web",
    method="connect-udp",
    transport="h3",
    target="192.0.2.1:53",
    source="198.51.100.7:4000",
    age_s=1.5,
    uplink_datagrams=1,
    uplink_bytes=2,
    downlink_datagrams=3,
    downlink_bytes=4,
    dropped_datagrams=0,
)


@dataclass
class FakeOperator:
    """Implements contract.ports.Operator."""

    is_alive: bool = True
    is_ready: bool = True
    report: ReloadReport = field(
        default_factory=lambda: ReloadReport(problems=(), changed=("policy",))
    )
    refusal: OperationRefused | None = None
    calls: list[tuple[object, ...]] = field(default_factory=list)
    live: list[TunnelSnapshot] = field(default_factory=lambda: [TUNNEL])

    def alive(self) -> bool:
        return self.is_alive

    def ready(self) -> bool:
        return self.is_ready

    async def status(self) -> Mapping[str, object]:
        return {"version": "1", "ready": self.is_ready}

    async def tunnels(self) -> Sequence[TunnelSnapshot]:
        return self.live

    async def kick(self, lease_id: str) -> bool:
        self.calls.append(("kick", lease_id))
        return any(tunnel.lease_id == lease_id for tunnel in self.live)

    async def revoke(self, *, subject: str | None, token_id: str | None) -> int:
        self.calls.append(("revoke", subject, token_id))
        return 2

    async def reload(self) -> ReloadReport:
        self.calls.append(("reload",))
        return self.report

    def drain(self, *, deadline_s: float | None) -> None:
        self.calls.append(("drain", deadline_s))

    async def metrics(self) -> bytes:
        return b"# HELP x y\n"

    async def restart(self) -> None:
        self.calls.append(("restart",))
        if self.refusal is not None:
            raise self.refusal
