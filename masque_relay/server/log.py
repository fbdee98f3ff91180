"""Owns the log: structlog and the standard library's records, one form, on standard error."""

import io
import logging
import re
import sys
from collections.abc import Sequence
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from masque_relay.config import LogFormat, LogLevel

_LEVELS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


def configure_logging(
    level: LogLevel, log_format: LogFormat, *, stream: TextIO | None = None
) -> None:
    """Send every record of this process to one stream in one form. May be called again.

    Records of the standard library (aioquic, hypercorn, our own quic package) take the same way as
    those of structlog, so that a collector sees one format.
    """
    shared: Sequence[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    output: TextIO = stream or sys.stderr
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format, colors=output.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(_LEVELS[level])
    # aioquic logs per packet at INFO and what peers do wrong at WARNING; hypercorn its start.
    logging.getLogger("quic").setLevel(max(_LEVELS[level], logging.ERROR))
    logging.getLogger("asyncio").setLevel(max(_LEVELS[level], logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A reload changes level and format: loggers that exist must notice.
        cache_logger_on_first_use=False,
    )


def _renderers(log_format: LogFormat, *, colors: bool) -> list[Processor]:
    match log_format:
        case LogFormat.JSON:
            return [
                # No locals: a token or a password may be one of them.
                structlog.processors.ExceptionRenderer(
                    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
                ),
                structlog.processors.JSONRenderer(),
            ]
        case LogFormat.CONSOLE:
            return [
                _escape_event,
                structlog.dev.ConsoleRenderer(
                    colors=colors,
                    # The default one is rich's, which shows locals.
                    exception_formatter=_write_traceback,
                ),
            ]


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROLS_BUT_BREAKS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def _escape_event(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Escape what may quote a peer: it must not begin a line of its own or steer a terminal.

    The renderer does so for the other values.
    """
    event_dict["event"] = _CONTROLS.sub(_escaped, str(event_dict.get("event", "")))
    return event_dict


def _write_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(_CONTROLS_BUT_BREAKS.sub(_escaped, text.getvalue()))


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
