"""The mesh on QUIC connections of its own: ALPN ``ghostwire/1``."""
