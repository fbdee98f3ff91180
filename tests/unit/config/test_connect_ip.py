"""The section `[connect_ip]`."""

from ipaddress import ip_address, ip_network

import pytest
from pydantic import ValidationError

from masque_relay.config.connect_ip import ConnectIpSection, IpEgressKind


def section(**keys: object) -> ConnectIpSection:
    """Validate as the loader does: values out of TOML."""
    return ConnectIpSection.model_validate(keys)


def test_it_is_off_by_default_and_has_pools_of_both_families() -> None:
    defaults = section()
    assert not defaults.enabled
    assert [network.version for network in defaults.pools] == [4, 6]
    assert all(network.is_private for network in defaults.pools)
    assert defaults.egress is IpEgressKind.USERSPACE


def test_what_a_file_says() -> None:
    found = section(
        enabled=True,
        templates=("/vpn", "/ip{?target,ipproto}"),
        pools=("10.9.0.0/24",),
        dns_servers=("10.9.0.1",),
        dns_domains=("Corp.Example.",),
        nat64_prefixes=("64:ff9b::/96",),
    )
    assert found.pools == (ip_network("10.9.0.0/24"),)
    assert found.dns_servers == (ip_address("10.9.0.1"),)
    assert found.dns_domains == ("corp.example",)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"pools": ("10.9.0.1/24",)}, "must be a network"),
        ({"pools": ("10.9.0.0/24", "10.8.0.0/24")}, "two pools of IPv4"),
        ({"pools": ("10.9.0.0/31",)}, "too small"),
        ({"pools": (), "enabled": True}, "at least one"),
        ({"templates": ("vpn",)}, "not a usable URI template"),
        ({"templates": ("/ip/{+target}",)}, "not a usable URI template"),
        ({"dns_domains": ("10.0.0.1",)}, "not a name"),
        ({"dns_domains": ("a b",)}, "not a DNS name"),
        ({"nat64_prefixes": ("64:ff9b::/95",)}, "must be a network|no IPv6 prefix"),
        ({"nat64_prefixes": ("10.0.0.0/8",)}, "no IPv6 prefix"),
        ({"egres": "tun"}, "Extra inputs"),
    ],
)
def test_what_can_not_work_is_refused(keys: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        section(**keys)
