"""Owns the pytest plugin that writes down what tests with the ``interop`` mark have shown.

``pytest -p interop.plugin --interop-results=FILE -m interop …``; with several workers (xdist) the
controller hears each report and writes the file.
"""

import json
from pathlib import Path

import pytest

from interop.marks import claims_of

OPTION = "--interop-results"
_KEY = "interop"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(OPTION, type=Path, help="where to write what interop tests have shown")


class Notebook:
    """Keeps a line for each test and claim.

    Attributes:
        lines: JSON objects.
    """

    def __init__(self, path: Path) -> None:
        self.lines: list[dict[str, object]] = []
        self._path = path

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that has run, was skipped, or whose fixtures failed."""
        if report.when != "call" and not (report.when == "setup" and not report.passed):
            return
        detail = ""
        if report.skipped and isinstance(report.longrepr, tuple):
            detail = str(report.longrepr[2])
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            detail = crash.message if crash is not None else report.longreprtext
        for name, value in report.user_properties:
            if name == _KEY:
                self.lines.append(
                    {
                        "test": report.nodeid,
                        "outcome": report.outcome,
                        "detail": detail,
                        "seconds": round(report.duration, 2),
                        **json.loads(str(value)),
                    }
                )

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self._path.write_text(json.dumps(self.lines, indent=1) + "\n", encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell the reports which cells their tests fill."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        parameters: dict[str, object] = callspec.params if callspec is not None else {}
        for claim in claims_of(item.iter_markers("interop"), parameters):
            cell = claim.cell
            told = {"peer": cell.peer, "method": cell.method, "over": cell.over}
            item.user_properties.append((_KEY, json.dumps({**told, "cannot": claim.cannot})))


def pytest_configure(config: pytest.Config) -> None:
    """Keep the notebook where the reports arrive."""
    path = config.getoption(OPTION)
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Notebook(path), "interop-notebook")
