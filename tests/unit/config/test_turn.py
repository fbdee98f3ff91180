"""The section [turn]: off by itself, strict in what it takes."""

from ipaddress import ip_address

import pytest
from pydantic import ValidationError

from masque_relay.config.turn import TurnSection
from masque_relay.contract.address import Endpoint


def section(**values: object) -> TurnSection:
    return TurnSection.model_validate(values, strict=False)


def test_it_is_off_by_itself() -> None:
    assert not TurnSection().is_on


@pytest.mark.parametrize(
    "values",
    [
        {"udp": ["[::]:3478"]},
        {"tcp": ["[::]:3478"]},
        {"tls": ["[::]:5349"]},
        {"on_https_port": True},
        {"on_h3_port": True},
    ],
)
def test_any_listener_switches_it_on(values: dict[str, object]) -> None:
    assert section(**values).is_on


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ({"first_port": 2000, "last_port": 1000}, "first_port is above last_port"),
        ({"relay_addresses": ["192.0.2.1", "192.0.2.2"]}, "two addresses of one family"),
        ({"external_addresses": ["192.0.2.1", "192.0.2.2"]}, "two addresses of one family"),
        ({"realm": ""}, "realm must have"),
        ({"realm": "a:b"}, "realm must have"),
        ({"realm": "x" * 128}, "realm must have"),
        ({"first_port": 0}, "greater than or equal to 1"),
        ({"udp": ["somewhere"]}, "is not ADDRESS:PORT"),
        ({"unknown": 1}, "Extra inputs"),
        ({"other_address": "192.0.2.2:3479"}, "needs an address in udp"),
        ({"udp": ["192.0.2.1:3478"], "other_address": "192.0.2.1:3479"}, "must differ"),
        ({"udp": ["192.0.2.1:3478"], "other_address": "192.0.2.2:3478"}, "must differ"),
        ({"udp": ["0.0.0.0:3478"], "other_address": "192.0.2.2:3479"}, "must differ"),
    ],
)
def test_what_does_not_fit_together_is_refused(values: dict[str, object], detail: str) -> None:
    with pytest.raises(ValidationError, match=detail):
        section(**values)


def test_another_address_for_behaviour_discovery() -> None:
    made = section(udp=["192.0.2.1:3478"], other_address="192.0.2.2:3479")
    assert made.other_address == Endpoint(address=ip_address("192.0.2.2"), port=3479)
