"""config/model.py: the sections, and that each part's limits are the part's own."""

import pytest
from pydantic import BaseModel, ValidationError

from masque_relay.admin.limits import AdminLimits
from masque_relay.config.model import ConnectTcpSection, RelayConfig, Section
from masque_relay.control.settings import AuditSettings, GateLimits, GateSettings
from masque_relay.dataplane.limits import FlowLimits, ResolverLimits, SocketLimits
from masque_relay.http.limits import HttpLimits
from masque_relay.quic.limits import H3Limits, QuicLimits

COMPONENTS = {
    QuicLimits, H3Limits, HttpLimits, ResolverLimits, FlowLimits, SocketLimits, AdminLimits,
    AuditSettings, GateSettings,
}  # fmt: skip


def types_in(section: type[BaseModel]) -> set[type]:
    found: set[type] = set()
    for field in section.model_fields.values():
        kind = field.annotation
        if isinstance(kind, type):
            found.add(kind)
            if issubclass(kind, BaseModel):
                found |= types_in(kind)
    return found


def test_every_component_s_limits_can_be_set() -> None:
    assert types_in(RelayConfig) >= COMPONENTS
    assert GateLimits in {field.type for field in GateSettings.__dataclass_fields__.values()}


def test_only_what_has_no_safe_default_is_required() -> None:
    required = {name for name, field in RelayConfig.model_fields.items() if field.is_required()}
    assert required == {"tls", "gate", "admin"}


def test_sections_refuse_unknown_keys_and_convert_nothing() -> None:
    class Example(Section):
        count: int

    with pytest.raises(ValidationError):
        Example.model_validate({"count": "1"})
    with pytest.raises(ValidationError):
        Example.model_validate({"count": 1, "more": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"data_capsule_type": 0x2028D7F3},
        {"data_capsule_type": 0},
        {"final_data_capsule_type": 1 << 62},
        {"templates": ["/no-variables/"]},
    ],
)
def test_capsule_types_of_connect_tcp_differ_and_are_no_datagrams(wrong: dict[str, object]) -> None:
    assert ConnectTcpSection.model_validate({"data_capsule_type": 0x21}).data_capsule_type == 0x21
    with pytest.raises(ValidationError):
        ConnectTcpSection.model_validate(wrong)
