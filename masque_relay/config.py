"""Strict TOML -> frozen values; the only reader of the configuration file."""
