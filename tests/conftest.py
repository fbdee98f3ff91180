"""Owns what every test run shares: the skip gate, the time scale, sockets barred from units."""

import fnmatch
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
import pytest_socket

from masque_relay.quic.limits import FastPath, QuicLimits

ROOT = Path(__file__).parent.parent
UNIT_DIRECTORIES = (ROOT / "tests" / "unit", ROOT / "tests" / "property")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--allowed-skips",
        type=Path,
        help="fail if a test is skipped for a reason that no line of this file matches",
    )


def pytest_configure() -> None:
    """Force the fast path of QUIC ``on`` or ``off`` by RELAY_TEST_FAST_PATH, in relays too."""
    mode = os.environ.get("RELAY_TEST_FAST_PATH")
    if mode is None:
        return
    defaults = QuicLimits.__init__.__kwdefaults__
    assert defaults is not None
    assert "fast_path" in defaults
    defaults["fast_path"] = FastPath(mode)
    os.environ["GHOSTWIRE__QUIC__LIMITS__FAST_PATH"] = mode


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What programs remember of a user's networks is not the user's who runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("user-state"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, saying why, what needs a program that is not on this machine."""
    for mark in item.iter_markers("needs_tool"):
        if shutil.which(mark.args[0]) is None:
            pytest.skip(f"needs {mark.args[0]}: .ci/run installs it")


@pytest.fixture(autouse=True)
def units_open_no_inet_socket(request: pytest.FixtureRequest) -> Generator[None]:
    """Refuse inet sockets in unit and property tests (an event loop needs its Unix socket pair)."""
    if not any(request.path.is_relative_to(directory) for directory in UNIT_DIRECTORIES):
        yield
        return
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()


@pytest.fixture(scope="session")
def timescale() -> float:
    """Factor on every deadline in a test; raise RELAY_TEST_TIMESCALE on a slow machine."""
    return float(os.environ.get("RELAY_TEST_TIMESCALE", "1"))


def skip_patterns(path: Path) -> list[str]:
    """Return the glob patterns of allowed skip reasons: one a line, `#` begins the why."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line and not line.startswith("#")]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn an unexplained skip into a failed run: what is skipped silently rots."""
    path: Path | None = session.config.getoption("--allowed-skips")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path is None or reporter is None or hasattr(session.config, "workerinput"):
        return
    patterns = skip_patterns(path)
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(fnmatch.fnmatchcase(reason, pattern) for pattern in patterns):
            reporter.write_line(f"skip not allowed: {report.nodeid}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
