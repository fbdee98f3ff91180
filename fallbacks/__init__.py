"""Relays beside HTTP (QUIC-native, TURN, DERP, WebSocket); each stands on masque_relay.contract."""
