"""Owns GateState: policy and authenticators, which a reload replaces together or not at all."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.auth.basic import User, load_basic
from masque_relay.control.auth.bearer import load_bearer
from masque_relay.control.auth.chain import AuthenticatorChain
from masque_relay.control.auth.mtls import load_mtls
from masque_relay.control.auth.node_keys import load_node_keys
from masque_relay.control.auth.turn import load_stun
from masque_relay.control.policy import CompiledPolicy, load_policy
from masque_relay.control.settings import GateSettings

_Settings = TypeVar("_Settings")
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """Everything that a reload replaces, built completely before any of it is used."""

    settings: GateSettings
    policy: CompiledPolicy
    chain: AuthenticatorChain


def build_state(settings: GateSettings, *, now_s: float, pool: ThreadPoolExecutor) -> GateState:
    """Return policy and authenticators as the files say now.

    Raises:
        ConfigError: with all their problems together.
    """
    problems: list[Problem] = []
    kinds = (settings.bearer, settings.basic, settings.mtls, settings.stun, settings.node_keys)
    if all(kind is None for kind in kinds):
        hint = "set one of gate.bearer, gate.basic and gate.mtls"
        problems.append(Problem(detail="no kind of credential is accepted", hint=hint))
    policy = _load(problems, settings.policy_file, partial(load_policy, now_s=now_s))
    bearer = _load(problems, settings.bearer, load_bearer)
    basic = _load(problems, settings.basic, partial(load_basic, pool=pool))
    mtls = _load(problems, settings.mtls, load_mtls)
    users: Mapping[str, User] = {} if basic is None else basic.users
    stun = _load(problems, settings.stun, partial(load_stun, users=users, bearer=bearer))
    node_keys = _load(problems, settings.node_keys, load_node_keys)
    if policy is None or problems:
        raise ConfigError(problems)
    chain = AuthenticatorChain(
        bearer=bearer, basic=basic, mtls=mtls, stun=stun, node_keys=node_keys
    )
    return GateState(settings=settings, policy=policy, chain=chain)


def _load(
    problems: list[Problem], settings: _Settings | None, load: Callable[[_Settings], _Loaded]
) -> _Loaded | None:
    """Return what a section's files say; None where it is not there, or has problems."""
    if settings is None:
        return None
    try:
        return load(settings)
    except ConfigError as error:
        problems.extend(error.problems)
        return None
