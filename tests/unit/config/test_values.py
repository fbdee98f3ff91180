"""config/values.py: addresses as an operator writes them."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from masque_relay.admin.address import UnixSocket
from masque_relay.config import HttpsListen, parse_admin_address, parse_listen_address
from masque_relay.config.values import HttpsAddress
from masque_relay.contract.address import Endpoint


@pytest.mark.parametrize("text", ["192.0.2.1:443", "0.0.0.0:0", "[::]:443", "[2001:db8::1]:65535"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_listen_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "443", ":443", "localhost:443", "192.0.2.1", "192.0.2.1:", "192.0.2.1:-1",
        "192.0.2.1:65536", "192.0.2.1:4 43", "192.0.2.1:٤", "::1:443", "[192.0.2.1]:443", "[::1]",
        "[::1:443", "[]:443",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 192\.0\.2\.1:443"):
        parse_listen_address(text)


def test_an_admin_address_may_be_a_unix_socket() -> None:
    assert parse_admin_address("unix:/run/x.sock") == UnixSocket(path=Path("/run/x.sock"))
    assert parse_admin_address("127.0.0.1:1") == Endpoint(address=ip_address("127.0.0.1"), port=1)
    with pytest.raises(ValueError, match="is not ADDRESS:PORT"):
        parse_admin_address("unix:")


class _Https(BaseModel):
    https: HttpsAddress


@pytest.mark.parametrize("text", ["auto", "off", "[::]:443", "127.0.0.1:0"])
def test_the_tcp_address_may_be_a_word(text: str) -> None:
    read = _Https.model_validate({"https": text}).https
    assert isinstance(read, HttpsListen) == (text in {"auto", "off"})
    assert str(read) == text


@pytest.mark.parametrize("value", ["on", "AUTO", "", 443, None, ["auto"]])
def test_any_other_word_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match=r"such as|must be a string"):
        _Https.model_validate({"https": value})
