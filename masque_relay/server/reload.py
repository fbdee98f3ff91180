"""Owns what a reload may change: reading all of it anew, then putting all of it in force."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from masque_relay.config import RelayConfig
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.gate import RelayGate
from masque_relay.control.settings import GateSettings
from masque_relay.control.state import GateState
from masque_relay.server.material import Material, load_material


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A complete new state, read and checked; nothing of it is in force yet."""

    config: RelayConfig
    material: Material
    gate: GateState
    key_digest: bytes
    """Of every file that decides whose credential counts."""


def prepare(config: RelayConfig, gate: RelayGate) -> Prepared:
    """Read everything that the configuration names. Blocks: run it in a thread.

    Raises:
        ConfigError: with the problems of all files together.
    """
    problems: list[Problem] = []
    material: Material | None = None
    state: GateState | None = None
    try:
        material = load_material(config)
    except ConfigError as error:
        problems += error.problems
    try:
        state = gate.prepare(config.gate)
    except ConfigError as error:
        problems += error.problems
    if material is None or state is None:
        raise ConfigError(problems)
    return Prepared(
        config=config, material=material, gate=state, key_digest=digest_keys(config.gate)
    )


def digest_keys(settings: GateSettings) -> bytes:
    """Return a digest of the keys, users and CAs, to see whether a reload changed them."""
    digest = hashlib.sha256()
    for path in _key_files(settings):
        digest.update(str(path).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def _key_files(settings: GateSettings) -> Iterator[Path]:
    if settings.bearer is not None:
        for issuer in settings.bearer.issuers:
            yield from issuer.key_files
            yield from issuer.jwks_files
            if issuer.hs256_secret_file is not None:
                yield issuer.hs256_secret_file
    if settings.basic is not None:
        yield settings.basic.users_file
    if settings.mtls is not None:
        yield from settings.mtls.ca_files
    if settings.stun is not None:
        yield from settings.stun.shared_secret_files
        yield from (entry.key_file for entry in settings.stun.token_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What a reload is compared with."""

    config: RelayConfig
    key_digest: bytes
    policy_digest: str
    certificates: tuple[bytes, ...]


def in_force(config: RelayConfig, material: Material, policy_digest: str) -> InForce:
    """Return what to compare the next reload with."""
    return InForce(
        config=config,
        key_digest=digest_keys(config.gate),
        policy_digest=policy_digest,
        certificates=_certificates(material),
    )


def changes(before: InForce, after: InForce) -> tuple[str, ...]:
    """Name what differs, in the words of ReloadReport."""
    old, new = before.config, after.config
    differing = {
        "policy": before.policy_digest != after.policy_digest,
        "keys": before.key_digest != after.key_digest
        or (old.gate.bearer, old.gate.basic, old.gate.mtls, old.gate.stun)
        != (new.gate.bearer, new.gate.basic, new.gate.mtls, new.gate.stun),
        "certificate": before.certificates != after.certificates or old.tls != new.tls,
        "limits": (old.quic.limits, old.gate.limits, old.http, old.tcp, old.drain, old.turn)
        != (new.quic.limits, new.gate.limits, new.http, new.tcp, new.drain, new.turn),
        "log": old.log != new.log,
    }
    return tuple(word for word, differs in differing.items() if differs)


def needs_restart(running: RelayConfig, wanted: RelayConfig) -> tuple[str, ...]:
    """Return the sections that differ but are read at start only."""
    differing = {
        "workers": running.workers != wanted.workers,
        "listen": running.listen != wanted.listen,
        "connect_udp": running.connect_udp != wanted.connect_udp,
        "connect_ip": running.connect_ip != wanted.connect_ip,
        "pvd": running.pvd != wanted.pvd,
        "dns": running.dns != wanted.dns,
        "turn": _turn_at_start(running) != _turn_at_start(wanted),
        "egress": running.egress != wanted.egress,
        "upstream": running.upstream != wanted.upstream,
        "admin": running.admin != wanted.admin,
        "audit": running.audit != wanted.audit,
        "quic.h3": running.quic.h3 != wanted.quic.h3,
        "quic.qlog_dir": running.quic.qlog_dir != wanted.quic.qlog_dir,
        "quic.keylog_file": running.quic.keylog_file != wanted.quic.keylog_file,
        "gate.revocations_file": running.gate.revocations_file != wanted.gate.revocations_file,
    }
    return tuple(section for section, differs in differing.items() if differs)


def _turn_at_start(config: RelayConfig) -> tuple[object, ...]:
    """Return what of `[turn]` is read at start only."""
    turn = config.turn
    return (
        (turn.udp, turn.tcp, turn.tls, turn.on_https_port, turn.on_h3_port, turn.other_address),
        (turn.relay_addresses, turn.external_addresses),
    )


def _certificates(material: Material) -> tuple[bytes, ...]:
    identities = (material.certificate, *material.more_certificates)
    return tuple(
        certificate.public_bytes(Encoding.DER)
        for identity in identities
        for certificate in (identity.certificate, *identity.chain)
    )
