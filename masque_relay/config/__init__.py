"""Strict TOML -> frozen values; the only reader of the configuration file."""

from masque_relay.config.load import load_config
from masque_relay.config.model import LogFormat, LogLevel, RelayConfig
from masque_relay.config.values import HttpsListen, parse_admin_address, parse_listen_address

__all__ = [
    "HttpsListen",
    "LogFormat",
    "LogLevel",
    "RelayConfig",
    "load_config",
    "parse_admin_address",
    "parse_listen_address",
]
