"""docs/explanation/denial-of-service.md: each test that it names exists, and each setting too."""

import ast
import re
from pathlib import Path

import pytest

from masque_relay.http.limits import HttpLimits
from masque_relay.quic.limits import QuicLimits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "denial-of-service.md").read_text(encoding="utf-8")
NAMED_TESTS = sorted(set(re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)(?:::(\w+))?`", PAGE)))


def find(name: str) -> Path:
    if "/" in name:
        return ROOT / name
    places = [ROOT / "tests/integration/quic" / name, ROOT / "tests/unit/quic" / name]
    return next((place for place in places if place.exists()), places[0])


@pytest.mark.parametrize(("name", "class_name"), NAMED_TESTS)
def test_named_test_exists(name: str, class_name: str) -> None:
    path = find(name)
    assert path.exists()
    if class_name:
        classes = [
            n.name for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ClassDef)
        ]
        assert class_name in classes


def test_page_names_a_test_for_every_attack() -> None:
    attacks = re.findall(r"^### .*?(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(attacks) > 5
    assert all(".py" in attack for attack in attacks)


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"`(\w+)` \(([\w.,]+)\)", PAGE))))
def test_quoted_default_is_the_one_in_force(setting: tuple[str, str]) -> None:
    name, quoted = setting
    limits = QuicLimits() if hasattr(QuicLimits(), name) else HttpLimits()
    value = getattr(limits, name)
    shown = str(value) if isinstance(value, str) else f"{value:,.0f}"
    assert quoted == shown
