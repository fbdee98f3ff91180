"""What client and server tell each other in sealed JSON."""

import json

import pytest

from fallbacks.derp.info import (
    ClientInfo,
    encode_mesh_client_info,
    encode_server_info,
    parse_client_info,
)
from masque_relay.contract.lease import TunnelLimits
from masque_relay.wire.errors import WireError


def test_names_count_without_regard_to_case() -> None:
    text = b'{"meshKey":"ab","version":2,"CanAckPings":true,"IsProber":true,"AppName":"x"}'
    expected = ClientInfo(version=2, mesh_key="ab", can_ack_pings=True, is_prober=True)
    assert parse_client_info(text) == expected
    assert parse_client_info(text.lower()) == expected


def test_a_server_shows_another_one_the_mesh_key() -> None:
    expected = ClientInfo(version=2, mesh_key="ab" * 32, can_ack_pings=True)
    assert parse_client_info(encode_mesh_client_info("ab" * 32)) == expected


def test_all_is_optional() -> None:
    assert parse_client_info(b"{}") == ClientInfo(version=0)
    assert parse_client_info(b'{"meshKey":null}') == ClientInfo(version=0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"2",
        b"\xff",
        b'{"version":"2"}',
        b'{"version":true}',
        b'{"meshKey":7}',
        b'{"meshKey":"' + b"a" * 200 + b'"}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(WireError):
        parse_client_info(text)


def test_the_mesh_key_is_in_no_representation() -> None:
    assert "secret" not in repr(ClientInfo(version=2, mesh_key="secret"))


def test_a_client_hears_its_rate_only_where_it_has_one() -> None:
    assert json.loads(encode_server_info(TunnelLimits())) == {"version": 2}
    limited = json.loads(encode_server_info(TunnelLimits(rate_bytes_per_s=1_000)))
    assert limited["TokenBucketBytesPerSecond"] == 1_000
    assert limited["TokenBucketBytesBurst"] == 65_535
