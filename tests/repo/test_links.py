"""Every page can be found from docs/README.md, and every link between pages leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "README.md"
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "interop").rglob("*.md"),
        *(ROOT / "nginx").rglob("*.md"),
    }
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    """Return what a page links to in this repository, without anchors."""
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text("utf-8"))]
    return [target for target in targets if target and "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [target for target in links(page) if not (page.parent / target).exists()]
    assert not broken


def test_the_index_names_every_page() -> None:
    listed = {(INDEX.parent / target).resolve() for target in links(INDEX)}
    pages = {page for page in PAGES if INDEX.parent in page.parents and page != INDEX}
    assert pages == {page for page in listed if page.suffix == ".md"}


def test_the_readme_leads_to_the_index() -> None:
    assert "docs/README.md" in links(ROOT / "README.md")
