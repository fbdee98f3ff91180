"""The fast path's reaches into aioquic do what aioquic's own methods do."""

import random

import pytest
from aioquic.quic.crypto import CryptoContext
from aioquic.quic.recovery import QuicPacketNumberWindow
from aioquic.tls import CipherSuite, Epoch

from masque_relay.quic.fastpath_private import (
    add_received,
    aes_masks,
    opener,
    probe_timeout_at,
    sealer,
)
from masque_relay.quic.limits import FastPath
from tests.support.quic_worlds import World, engine

AES = (CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384)


def context_of(suite: CipherSuite) -> CryptoContext:
    context = CryptoContext()
    context.setup(cipher_suite=suite, secret=bytes(range(48)), version=1)
    return context


@pytest.mark.parametrize("suite", AES)
def test_masks_of_many_samples_are_those_of_each(suite: CipherSuite) -> None:
    context = context_of(suite)
    assert context.hp is not None
    make_masks = aes_masks(context)
    assert make_masks is not None
    samples = [bytes([n]) * 16 for n in range(70)]
    assert make_masks(b"".join(samples)) == b"".join(context.hp._mask(s) for s in samples)


def test_there_are_no_masks_in_batches_without_aes() -> None:
    assert aes_masks(context_of(CipherSuite.CHACHA20_POLY1305_SHA256)) is None
    assert aes_masks(CryptoContext()) is None


@pytest.mark.parametrize("suite", AES)
def test_opener_and_sealer_use_the_keys_of_the_context(suite: CipherSuite) -> None:
    context = context_of(suite)
    assert context.aead is not None
    seal, iv = sealer(context)
    sealed = seal((iv ^ 77).to_bytes(12, "big"), b"text", b"header")
    assert sealed == context.aead.encrypt(b"text", b"header", 77)
    unseal, iv = opener(context)
    assert unseal((iv ^ 77).to_bytes(12, "big"), sealed, b"header") == b"text"


@pytest.mark.parametrize("seed", range(10))
def test_runs_are_recorded_as_single_numbers_would_be(seed: int) -> None:
    dice = random.Random(seed)
    ours, theirs = QuicPacketNumberWindow(), QuicPacketNumberWindow()
    for _ in range(300):
        first = max(0, theirs._lower + dice.randrange(-20, 160))
        run = range(first, first + dice.choice((1, 1, 3, 64, 300)))
        run = range(run.start, next((n for n in run if n in theirs), run.stop))
        if not run:
            continue
        add_received(ours, run.start, run.stop - 1)
        for number in run:
            theirs.add(number)
        window = range(max(0, theirs._lower - 5), run.stop + 200)
        assert [n in ours for n in window] == [n in theirs for n in window]
        assert len(ours._received) <= 2 * ours._size + 300


def test_the_probe_timeout_is_aioquics() -> None:
    world = World(FastPath.ON, 1)
    server = world.pair.server
    recovery = engine(server)._loss
    server.send_datagrams(b"\x00", [b"x"])
    server.packets_to_send(world.pair.now)
    assert engine(server)._spaces[Epoch.ONE_RTT].ack_eliciting_in_flight == 1
    for recovery._pto_count in (0, 1, 5):
        expected = recovery.get_loss_detection_time(amplification_limited=False)
        assert probe_timeout_at(recovery) == expected
