"""Logging: constant event text plus fields, to stderr, for people or for machines.

`LOG_LEVEL` is the level of the processor's own lines. Libraries are heard from
WARNING on only: at DEBUG several of them print request headers, and with them keys.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Literal

import structlog

OWN_LOGGERS = "pdf_processor"

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(*, level: str, log_format: Literal["console", "json"]) -> None:
    """Send every log line of the process to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(OWN_LOGGERS).setLevel(level)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _renderers(log_format: str) -> list[structlog.typing.Processor]:
    """Tracebacks without local variables: those may hold secrets."""
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    colors = sys.stderr.isatty()
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def log_bug(event: str, error: BaseException) -> None:
    """Log what nobody expected: where, not what it said. That may hold a key."""
    where = "".join(traceback.format_tb(error.__traceback__))
    structlog.get_logger(OWN_LOGGERS).error(event, kind=type(error).__name__, where=where)
