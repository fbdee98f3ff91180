"""Owns the tests that every error of the client has an exit code and keeps its hint."""

import pytest

from masque_relay.cli.client_errors import exit_code_of
from masque_relay.cli.output import ExitCode
from masque_relay.client import errors
from masque_relay.contract.verdict import EndReason

CODES = {
    errors.AddressError("x"): ExitCode.USAGE,
    errors.CredentialError("x"): ExitCode.USAGE,
    errors.TunnelRefused(403, "x"): ExitCode.REFUSED,
    errors.MeshRefused(3): ExitCode.REFUSED,
    errors.PeerRefused("x"): ExitCode.REFUSED,
    errors.DeviceFailed("x"): ExitCode.FAILED,
    errors.RelayUnreachable("x"): ExitCode.UNREACHABLE,
    errors.RelayUntrusted("x"): ExitCode.UNREACHABLE,
    errors.RelayIncapable("x"): ExitCode.UNREACHABLE,
    errors.RelayLeaving("x"): ExitCode.UNREACHABLE,
    errors.ConnectionLost("x"): ExitCode.UNREACHABLE,
    errors.RelayTimeout("x"): ExitCode.TIMEOUT,
    errors.EchoSilent("x"): ExitCode.TIMEOUT,
    errors.ListenFailed("x"): ExitCode.FAILED,
    errors.TunnelClosed(EndReason.IDLE, "x"): ExitCode.FAILED,
}


@pytest.mark.parametrize(("error", "code"), CODES.items(), ids=lambda value: type(value).__name__)
def test_every_error_has_its_exit_code(error: errors.ClientError, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_no_error_is_forgotten_here() -> None:
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.ClientError)
    }
    assert defined - {errors.ClientError} == {type(error) for error in CODES}


def test_message_and_hint_are_kept() -> None:
    error = errors.TunnelRefused(429, "full", hint="wait", retry_after_s=3)
    assert (str(error), error.hint, error.retry_after_s) == ("full", "wait", 3)
