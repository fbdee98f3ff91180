"""Which connections use the fast path, and that both its users can tell."""

import logging
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import CipherSuite

from masque_relay.quic import fastpath
from masque_relay.quic.ack_policy import AckPolicyConnection
from masque_relay.quic.fastpath import connection_class
from masque_relay.quic.fastpath_native import AcceleratedConnection
from masque_relay.quic.fastpath_private import missing_names
from masque_relay.quic.limits import FastPath, QuicLimits
from masque_relay.quic.qlog import QlogDirectory
from masque_relay.quic.stream_bursts import StreamBurstConnection
from tests.support.quic_pair import pair_with_limits
from tests.support.quic_worlds import World

CLIENT = QuicConfiguration(is_client=True)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (FastPath.AUTO, StreamBurstConnection),
        (FastPath.ON, StreamBurstConnection),
        (FastPath.OFF, AckPolicyConnection),
    ],
)
def test_the_limits_choose(mode: FastPath, expected: type) -> None:
    limits = QuicLimits(fast_path=mode, accelerator=False)
    assert connection_class(limits, CLIENT) is expected


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_accelerator_is_used_where_it_is_there_and_wanted(
    is_there: bool, is_wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastpath, "is_compiled", lambda: is_there)
    limits = QuicLimits(fast_path=FastPath.ON, accelerator=is_wanted)
    expected = AcceleratedConnection if is_there and is_wanted else StreamBurstConnection
    assert connection_class(limits, CLIENT) is expected


@pytest.mark.parametrize("mode", [FastPath.OFF, FastPath.ON])
def test_the_accelerator_never_goes_without_the_fast_path(
    mode: FastPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastpath, "is_compiled", lambda: True)
    made = connection_class(QuicLimits(fast_path=mode), CLIENT)
    assert (made is AcceleratedConnection) == (mode is FastPath.ON)


@pytest.mark.parametrize("mode", FastPath)
def test_a_connection_with_qlog_is_left_to_aioquic(mode: FastPath, tmp_path: Path) -> None:
    configuration = QuicConfiguration(is_client=True, quic_logger=QlogDirectory(tmp_path))
    assert connection_class(QuicLimits(fast_path=mode), configuration) is AckPolicyConnection


def test_this_aioquic_has_all_names_that_the_fast_path_uses() -> None:
    assert missing_names(QuicConnection(configuration=CLIENT)) == []


def test_names_that_are_gone_are_told() -> None:
    connection = QuicConnection(configuration=CLIENT)
    del connection._spin_highest_pn
    del connection._loss._pacer.bucket_time
    assert missing_names(connection) == [
        "QuicConnection._spin_highest_pn",
        "QuicPacketPacer.bucket_time",
    ]


def test_another_aioquic_turns_it_off_once_and_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fastpath, "missing_names", lambda _: ["QuicConnection._gone"])
    monkeypatch.setattr(fastpath, "is_compiled", lambda: False)
    fastpath._is_aioquic_as_expected.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            classes = [connection_class(QuicLimits(fast_path=mode), CLIENT) for mode in FastPath]
            again = connection_class(QuicLimits(fast_path=FastPath.AUTO), CLIENT)
    finally:
        fastpath._is_aioquic_as_expected.cache_clear()
    assert classes == [AckPolicyConnection, StreamBurstConnection, AckPolicyConnection]
    assert again is AckPolicyConnection
    assert caplog.messages == ["the fast path is off, for aioquic lacks: QuicConnection._gone"]


@pytest.mark.parametrize(
    ("mode", "suite", "uses"),
    [
        (FastPath.ON, CipherSuite.AES_128_GCM_SHA256, True),
        (FastPath.ON, CipherSuite.AES_256_GCM_SHA384, True),
        (FastPath.ON, CipherSuite.CHACHA20_POLY1305_SHA256, False),
        (FastPath.OFF, CipherSuite.AES_128_GCM_SHA256, False),
    ],
)
def test_a_connection_tells_whether_it_uses_it(
    mode: FastPath, suite: CipherSuite, uses: bool
) -> None:
    assert [end.uses_fast_path for end in World(mode, 1, suite).ends] == [uses, uses]


def test_one_end_needs_no_fast_path_at_the_other() -> None:
    pair = pair_with_limits(
        server=QuicLimits(fast_path=FastPath.ON), client=QuicLimits(fast_path=FastPath.OFF)
    )
    for _ in range(5):
        pair.client.send_datagrams(b"\x00", [b"up"] * 30)
        pair.server.send_datagrams(b"\x00", [b"down" * 300] * 30)
        pair.settle()
    assert pair.server_counters.quic_datagrams_received == 150
    assert pair.client_counters.quic_datagrams_received == 150
    assert pair.server_counters.packets_received_fast > 0
    assert pair.server_counters.packets_sent_fast > 100
    assert pair.client_counters.packets_sent_fast == 0
