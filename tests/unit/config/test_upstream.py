"""Owns the tests of the section ``[upstream]``."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from masque_relay.config.upstream import UpstreamDefault, UpstreamResolve, UpstreamSection


def test_without_a_url_there_is_none_and_names_go_upstream() -> None:
    section = UpstreamSection()
    assert section.url == ""
    assert section.resolve is UpstreamResolve.UPSTREAM
    assert section.default is UpstreamDefault.PROXY


def test_one_credential_is_enough() -> None:
    with pytest.raises(ValidationError, match="one credential"):
        UpstreamSection(token_file=Path("t"), basic_file=Path("b"))


def test_certificate_and_key_come_together() -> None:
    with pytest.raises(ValidationError, match="together"):
        UpstreamSection(client_certificate_file=Path("c"))


def test_a_chain_without_a_cap_is_refused() -> None:
    with pytest.raises(ValidationError):
        UpstreamSection(max_hops=0)
