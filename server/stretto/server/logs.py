"""The log: one line an event, for people or as JSON. Of what callers write, only request ids go into it."""

import logging
from typing import TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def open_log(*, format: str, level: str, stream: TextIO, colours: bool) -> FilteringBoundLogger:
    """A logger of its own: nothing is configured for the process as a whole."""
    as_json = format == "json"
    renderer: Processor = structlog.processors.JSONRenderer()
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(
            colors=colours,
            pad_event_to=0,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,  # the pretty ones show locals, and so prompts
        )
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([structlog.processors.format_exc_info] if as_json else []),
        renderer,
    ]
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),  # a line in one write, whole also where others write
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        context_class=dict,
    )
    return cast(FilteringBoundLogger, logger)


class Forwarding(logging.Handler):
    """Takes what libraries log by the standard library, warnings and worse, into our log."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        self._logger.log(record.levelno, record.getMessage(), library=record.name, exc_info=record.exc_info)
