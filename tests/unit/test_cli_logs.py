"""The host's log: where it goes, what it leaves out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from samband.hosting.logs import configure_logging
from samband.redaction import Redactor


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    handlers, level, settings = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**settings)


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


def lines(written: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_event_is_one_json_line_with_its_part_level_and_time(written: io.StringIO) -> None:
    configure_logging(format="json", stream=written)
    structlog.get_logger("samband.hosting.host").info("host_started", port=8620)
    (line,) = lines(written)
    timestamp = line.pop("timestamp")
    assert line == {"event": "host_started", "level": "info", "logger": "samband.hosting.host", "port": 8620}
    assert str(timestamp).endswith("Z")


def test_event_below_the_level_is_not_written(written: io.StringIO) -> None:
    configure_logging(level="warning", format="json", stream=written)
    structlog.get_logger("samband.hosting.host").info("host_started")
    assert lines(written) == []


def test_secret_is_left_out_wherever_it_stands(written: io.StringIO) -> None:
    redactor = Redactor()
    redactor.add("very-secret-value")
    configure_logging(format="json", redactor=redactor, stream=written)
    structlog.get_logger("samband.x").info("told", text="see very-secret-value", nested={"a": ["very-secret-value"]})
    logging.getLogger("somebody").warning("they say very-secret-value")
    assert "very-secret-value" not in written.getvalue()
    assert len(lines(written)) == 2


def test_exception_is_written_without_its_words(written: io.StringIO) -> None:
    configure_logging(format="json", stream=written)
    try:
        raise ValueError("INSERT INTO record VALUES ('Kari Nordmann')")
    except ValueError:
        structlog.get_logger("samband.x").error("it_broke", exc_info=True)
        logging.getLogger("sqlalchemy").exception("it broke there")
    for line in lines(written):
        assert line["error"] == "ValueError"
        assert "test_cli_logs.py" in str(line["where"])
    assert "Kari" not in written.getvalue()


def test_other_libraries_are_heard_from_warning_on(written: io.StringIO) -> None:
    configure_logging(level="debug", format="json", stream=written)
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("aiohttp.server").warning("odd request")
    assert [(line["logger"], line["event"]) for line in lines(written)] == [("aiohttp.server", "odd request")]


def test_console_line_holds_no_colour_when_it_is_not_a_terminal(written: io.StringIO) -> None:
    configure_logging(format="console", stream=written)
    structlog.get_logger("samband.hosting.host").warning("odd", port=1)
    assert "\x1b" not in written.getvalue()
    assert "warning" in written.getvalue()
