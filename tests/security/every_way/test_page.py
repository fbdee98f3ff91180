"""The page of denials tells what the tables tell."""

from pathlib import Path

from tests.security.every_way.__main__ import COLUMNS, page
from tests.security.every_way.denial_table import HEARD

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "denials.md"


def test_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "python -m tests.security.every_way > docs/reference/denials.md"


def test_page_has_every_column_of_the_table() -> None:
    heard = next(iter(HEARD.values()))
    assert set(COLUMNS) == set(type(heard).__dataclass_fields__) - {"means"}
