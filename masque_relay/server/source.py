"""Owns where a relay's configuration comes from, and the files that it leaves for others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from masque_relay.config import RelayConfig, load_config


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSource:
    """Reads the same configuration again, command-line options included."""

    path: Path
    overrides: Mapping[tuple[str | int, ...], object] = field(
        default_factory=dict[tuple[str | int, ...], object]
    )
    """Values of command-line options by key path."""

    def load(self) -> RelayConfig:
        """Return what the file says now.

        Raises:
            ConfigError: with every problem found.
        """
        return load_config(self.path, overrides=self.overrides)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayFiles:
    """What a relay tells scripts through files. None: nothing is written or said."""

    ready_file: Path | None = None
    """Written once the relay serves, removed when it ends."""
    admin_url_file: Path | None = None
    """The same, with nothing but the admin URL in it."""
    ca_file: Path | None = None
    """Named in the ready file."""
    token_file: Path | None = None
    """Named in the ready file."""
