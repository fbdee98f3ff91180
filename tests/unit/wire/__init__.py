"""Unit tests of masque_relay.wire, one file per module."""
