"""What a peer says must not write lines of the log or steer the terminal that shows it."""

import io
import logging
from collections.abc import Generator

import pytest
import structlog

from masque_relay.config import LogFormat, LogLevel
from masque_relay.server.log import configure_logging

HOSTILE = "x\x1b[2J\x9b31m\rowned\u2028"


@pytest.fixture
def console() -> Generator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging(LogLevel.DEBUG, LogFormat.CONSOLE, stream=stream)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_no_record_brings_control_characters_to_the_terminal(console: io.StringIO) -> None:
    logging.getLogger("masque_relay.test").warning("peer said %s", HOSTILE + "\nfake line")
    structlog.get_logger("masque_relay.test").info("event", detail=HOSTILE + "\nfake line")
    lines = console.getvalue().split("\n")
    assert len(lines) == 3  # two records and the end
    assert not any(set(HOSTILE) & set(line) - set("x[2J31mowned") for line in lines)


def test_no_exception_brings_control_characters_to_the_terminal(console: io.StringIO) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        structlog.get_logger("masque_relay.test").exception("event")
    text = console.getvalue()
    assert "ValueError: x\\x1b[2J" in text
    assert not set("\x1b\x9b\r\u2028") & set(text)
