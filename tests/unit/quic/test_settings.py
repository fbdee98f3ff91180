"""What an endpoint is made of."""

from masque_relay.quic.limits import RetryMode
from masque_relay.quic.settings import ConnectFailed, EndpointSettings


def test_defaults_write_no_diagnostics_and_retry_under_load_only() -> None:
    settings = EndpointSettings()
    assert settings.qlog_directory is None
    assert settings.key_log_file is None
    assert settings.certificates is None
    assert settings.limits.retry_mode is RetryMode.ADAPTIVE


def test_keys_are_fresh_for_each_endpoint_and_never_shown() -> None:
    first, second = EndpointSettings(), EndpointSettings()
    assert first.secrets.reset_key != second.secrets.reset_key
    assert first.secrets.retry_keys != second.secrets.retry_keys
    assert "secrets" not in repr(first)


def test_failure_to_connect_tells_code_and_reason() -> None:
    error = ConnectFailed(0x2, "refused")
    assert (error.error_code, error.reason, str(error)) == (0x2, "refused", "refused")
