"""Owns the names under which a relay is asked for a Ghostwire session, carrier by carrier."""

UPGRADE_TOKEN = "ghostwire"  # noqa: S105  (a protocol, not a password)
"""Extended CONNECT and Upgrade (docs/protocol/ghostwire.md, "Carriers")."""
DEFAULT_PATH = "/.well-known/ghostwire/"
"""Of HTTP carriers."""

SUBPROTOCOL = "ghostwire.v1"
"""WebSocket."""
MAX_MESSAGE_BYTES = 65_536
"""Of WebSocket messages that we send; frames are never cut. Many proxies buffer a whole message."""

SESSION_FIELD = "Ghostwire-Session"
OFFSET_FIELD = "Ghostwire-Offset"
MODE_FIELD = "Ghostwire-Mode"
POLL_MODE = "poll"
"""Plain requests; field names in any case."""
