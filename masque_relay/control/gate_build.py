"""Owns how a gate is made: from settings, with all that is wrong in the files reported at once."""

from concurrent.futures import ThreadPoolExecutor

from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.ports import Clock
from masque_relay.control.audit import AuditTrail
from masque_relay.control.gate import RelayGate
from masque_relay.control.quota_book import QuotaBook
from masque_relay.control.revocation import RevocationList
from masque_relay.control.settings import GateSettings
from masque_relay.control.state import GateState, build_state

PASSWORD_THREADS = 1  # an argon2 check keeps a core busy; the packets need the others


def build_gate(
    settings: GateSettings,
    *,
    clock: Clock,
    audit: AuditTrail,
    book: QuotaBook | None = None,
    revocations: RevocationList | None = None,
) -> RelayGate:
    """Return a gate that is ready to admit; the caller closes it, calls its tick, owns the trail.

    Args:
        settings: what the configuration says.
        clock: time.
        audit: where decisions are recorded.
        book: what quotas are counted in; None: a book of this process.
        revocations: a list that somebody else keeps; None: the one in the settings' file.

    Raises:
        ConfigError: with the problems of policy, keys, users, CAs and revocations together.
    """
    pool = ThreadPoolExecutor(PASSWORD_THREADS, thread_name_prefix="password")
    problems: list[Problem] = []
    state: GateState | None = None
    try:
        state = build_state(settings, now_s=clock.wall_s(), pool=pool)
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        if revocations is None:
            revocations = open_revocations(settings)
    except ConfigError as error:
        problems.extend(error.problems)
    if state is None or revocations is None:
        pool.shutdown(wait=False)
        raise ConfigError(problems)
    return RelayGate(state, clock=clock, audit=audit, revocations=revocations, pool=pool, book=book)


def open_revocations(settings: GateSettings) -> RevocationList:
    """Return the revocation list as its file says, if there is one.

    Raises:
        ConfigError: the file can't be read or is not ours.
    """
    return RevocationList(file=settings.revocations_file, max_entries=settings.limits.revocations)
