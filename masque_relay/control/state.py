"""Owns GateState: policy and authenticators, which a reload replaces together or not at all."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.auth.basic import BasicAuthenticator, load_basic
from masque_relay.control.auth.bearer import BearerAuthenticator, load_bearer
from masque_relay.control.auth.chain import AuthenticatorChain
from masque_relay.control.auth.mtls import MtlsAuthenticator, load_mtls
from masque_relay.control.auth.turn import StunAuthenticator, load_stun
from masque_relay.control.policy import CompiledPolicy, load_policy
from masque_relay.control.settings import GateSettings


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
    policy: CompiledPolicy | None = None
    bearer: BearerAuthenticator | None = None
    basic: BasicAuthenticator | None = None
    mtls: MtlsAuthenticator | None = None
    stun: StunAuthenticator | None = None
    if (settings.bearer, settings.basic, settings.mtls, settings.stun) == (None, None, None, None):
        hint = "set one of gate.bearer, gate.basic and gate.mtls"
        problems.append(Problem(detail="no kind of credential is accepted", hint=hint))
    try:
        policy = load_policy(settings.policy_file, now_s=now_s)
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        bearer = None if settings.bearer is None else load_bearer(settings.bearer)
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        basic = None if settings.basic is None else load_basic(settings.basic, pool)
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        mtls = None if settings.mtls is None else load_mtls(settings.mtls)
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        users = {} if basic is None else basic.users
        if settings.stun is not None:
            stun = load_stun(settings.stun, users=users, bearer=bearer)
    except ConfigError as error:
        problems.extend(error.problems)
    if policy is None or problems:
        raise ConfigError(problems)
    chain = AuthenticatorChain(bearer=bearer, basic=basic, mtls=mtls, stun=stun)
    return GateState(settings=settings, policy=policy, chain=chain)
