"""Owns the namespace pair: the client's end and the relay's end."""

from collections.abc import Generator

import pytest

from tests.support.netns import NamespaceEnd, namespace_pair, skip_without_namespaces


@pytest.fixture
def ends() -> Generator[tuple[NamespaceEnd, NamespaceEnd]]:
    """The client's namespace and the relay's; nothing passes between them yet."""
    skip_without_namespaces()
    with namespace_pair() as pair:
        yield pair
