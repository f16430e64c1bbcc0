"""How the host writes its log: one line per event on standard error, for people or as JSON, with secrets left out.

An exception is written as its type and where it arose, never in its own words: those may quote a member's data, and a
database driver's do.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog

from samband.redaction import Redactor

__all__ = ["configure_logging"]

_FRAMES_KEPT: Final = 8
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure_logging(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["console", "json"] = "console",
    redactor: Redactor | None = None,
    stream: TextIO | None = None,
) -> None:
    """Sets up structlog and the standard library's logging for this process; again replaces the former set-up.

    Args:
        level: The least severe level that samband's own events are written at. Other libraries are never below warning.
        format: ``console`` for people, ``json`` for machines.
        redactor: Knows the secrets to leave out; one that knows none still recognises their shapes.
        stream: Where to; standard error when not given.
    """
    out = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_words,
    ]
    last: list[structlog.typing.Processor] = [
        (redactor or Redactor()).structlog_processor,
        _renderer(format, out),
    ]
    structlog.configure(
        processors=[*shared, _add_logger_name, *last],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_NamedLoggers(out),
        cache_logger_on_first_use=False,
    )
    _configure_other_libraries(_LEVELS[level], out, shared, last)


def _configure_other_libraries(
    level: int, out: TextIO, shared: list[structlog.typing.Processor], last: list[structlog.typing.Processor]
) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            keep_exc_info=False,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def _renderer(format: Literal["console", "json"], out: TextIO) -> structlog.typing.Processor:
    if format == "json":
        return structlog.processors.JSONRenderer(default=str)
    return structlog.dev.ConsoleRenderer(colors=out.isatty() and not os.environ.get("NO_COLOR"), pad_event_to=0)


def _without_words(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    exc_info = _exc_info(event.pop("exc_info", None))
    event.pop("stack_info", None)
    if exc_info is not None:
        frames = traceback.extract_tb(exc_info[2])[-_FRAMES_KEPT:]
        event["error"] = exc_info[0].__name__
        event["where"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _exc_info(given: object) -> ExcInfo | None:
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
    if isinstance(given, tuple) and len(given) == 3 and isinstance(given[1], BaseException):
        return type(given[1]), given[1], given[2]
    if given:
        current = sys.exception()
        return None if current is None else (type(current), current, current.__traceback__)
    return None


def _add_logger_name(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("logger", getattr(logger, "name", "samband"))
    return event


class _NamedLogger(structlog.WriteLogger):
    """Writes lines, and remembers which part of samband it writes for."""

    def __init__(self, file: TextIO, name: str) -> None:
        super().__init__(file)
        self.name = name


class _NamedLoggers:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, *names: Any) -> _NamedLogger:
        return _NamedLogger(self._out, str(names[0]) if names else "samband")
