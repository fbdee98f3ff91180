"""Owns how the client's errors end a command: which exit code, and the next step."""

from typing import NoReturn

from masque_relay.cli.output import ExitCode, fail
from masque_relay.client.errors import (
    AddressError,
    ClientError,
    ConnectionLost,
    CredentialError,
    DeviceFailed,
    EchoSilent,
    ListenFailed,
    MeshRefused,
    PeerRefused,
    RelayIncapable,
    RelayLeaving,
    RelayTimeout,
    RelayUnreachable,
    RelayUntrusted,
    TunnelRefused,
)
from masque_relay.client.pvd import PvdError

_EXIT_CODES: tuple[tuple[type[ClientError], ExitCode], ...] = (
    (AddressError, ExitCode.USAGE),
    (CredentialError, ExitCode.USAGE),
    (TunnelRefused, ExitCode.REFUSED),
    (PvdError, ExitCode.REFUSED),
    (MeshRefused, ExitCode.REFUSED),
    (PeerRefused, ExitCode.REFUSED),
    (RelayUnreachable, ExitCode.UNREACHABLE),
    (RelayUntrusted, ExitCode.UNREACHABLE),
    (RelayIncapable, ExitCode.UNREACHABLE),
    (RelayLeaving, ExitCode.UNREACHABLE),
    (ConnectionLost, ExitCode.UNREACHABLE),
    (RelayTimeout, ExitCode.TIMEOUT),
    (EchoSilent, ExitCode.TIMEOUT),
    (ListenFailed, ExitCode.FAILED),
    (DeviceFailed, ExitCode.FAILED),
)


def exit_code_of(error: ClientError) -> ExitCode:
    """Return what the command leaves with."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILED)


def fail_with(error: ClientError) -> NoReturn:
    """Say what went wrong and what to do next, and leave."""
    fail(error.message, hint=error.hint, exit_code=exit_code_of(error))
