"""The operator's plane: health, metrics, sessions, revocation, reload, drain."""
