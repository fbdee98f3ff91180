"""Owns what the tests of DERP borrow: an HTTP/3 client."""

from tests.integration.server.conftest import connect as open_h3

__all__ = ["open_h3"]
