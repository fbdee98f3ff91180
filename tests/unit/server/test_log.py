"""server/log.py: one form for all records."""

import io
import json
import logging
from collections.abc import Generator

import pytest
import structlog

from masque_relay.config import LogFormat, LogLevel
from masque_relay.server.log import configure_logging


@pytest.fixture(autouse=True)
def restored() -> Generator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(level: LogLevel, log_format: LogFormat) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, log_format, stream=stream)
    return stream


def test_structlog_and_the_standard_library_write_the_same_json() -> None:
    stream = configured(LogLevel.INFO, LogFormat.JSON)
    structlog.get_logger("one").info("served", port=1)
    logging.getLogger("two").warning("closed %s", "early", extra={"connection_id": "ab"})
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["port"], first["level"]) == ("served", 1, "info")
    assert (second["event"], second["connection_id"]) == ("closed early", "ab")
    assert second["logger"] == "two"
    assert first["timestamp"].endswith("Z")


def test_records_below_the_level_are_not_written_and_it_can_change() -> None:
    stream = configured(LogLevel.WARNING, LogFormat.JSON)
    log = structlog.get_logger("one")
    log.info("quiet")
    assert stream.getvalue() == ""
    stream = configured(LogLevel.DEBUG, LogFormat.JSON)
    log.debug("loud")
    assert "loud" in stream.getvalue()


def test_a_traceback_stays_in_its_record() -> None:
    stream = configured(LogLevel.INFO, LogFormat.JSON)
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger("one").exception("failed")
        logging.getLogger("two").exception("failed too")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["exception"][0]["exc_value"] == "why"
    assert second["exception"][0]["exc_value"] == "why"


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_a_traceback_shows_no_local_variable(log_format: LogFormat) -> None:
    stream = configured(LogLevel.INFO, log_format)
    token = "secret-in-a-local"
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger("one").exception("failed")
    assert "ValueError" in stream.getvalue()
    assert token not in stream.getvalue()


def test_the_console_form_is_for_people() -> None:
    stream = configured(LogLevel.INFO, LogFormat.CONSOLE)
    structlog.get_logger("one").info("served", port=1)
    assert "served" in stream.getvalue()
    assert "port=1" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()
