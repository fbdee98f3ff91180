"""Values, messages and ports that every layer shares. No behaviour."""
