"""Owns the log: structlog and the standard library's records, one form, on standard error."""

import logging
import sys
from collections.abc import Sequence
from typing import TextIO

import structlog
from structlog.typing import Processor

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
                structlog.dev.ConsoleRenderer(
                    colors=colors,
                    # The default one is rich's, which shows locals.
                    exception_formatter=structlog.dev.plain_traceback,
                )
            ]
