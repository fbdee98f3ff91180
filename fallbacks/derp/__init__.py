"""DERP v2 (Tailscale): frames, sessions, and the ways in over HTTP and WebSocket."""
