"""admin/address.py: how an admin listener is written."""

from ipaddress import ip_address
from pathlib import Path

from masque_relay.admin.address import UnixSocket, admin_url
from masque_relay.contract.address import Endpoint


def test_urls_are_what_ghostctl_takes() -> None:
    assert admin_url(Endpoint(address=ip_address("127.0.0.1"), port=1)) == "http://127.0.0.1:1"
    assert admin_url(Endpoint(address=ip_address("::1"), port=1)) == "http://[::1]:1"
    assert admin_url(UnixSocket(path=Path("/run/x.sock"))) == "unix:/run/x.sock"
