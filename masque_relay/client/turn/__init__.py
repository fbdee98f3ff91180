"""A TURN client: datagrams to one peer through a STUN/TURN server (RFC 8656)."""
