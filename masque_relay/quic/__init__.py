"""The QUIC endpoint on aioquic; the only package that imports aioquic."""
