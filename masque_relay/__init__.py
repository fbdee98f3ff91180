"""The Ghostwire relay: a MASQUE/HTTP/3-first proxy behind one authentication and policy gate."""

__version__ = "0.1.0.dev0"
