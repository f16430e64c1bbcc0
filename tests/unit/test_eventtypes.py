"""Every event has a type with a schema, and says nothing that the schema does not."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from samband.eventtypes import EVENT_TYPES, check_data, event_schema, matches, pattern_problem

RUN = {"run": "r1", "state": "failed", "operation": "sync"}


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_every_type_has_a_valid_open_schema_that_says_what_it_is_about(type: str) -> None:
    schema = event_schema(type)
    assert schema is not None
    Draft202012Validator.check_schema(schema)
    assert "Subject:" in schema["description"] or type.endswith("ping.v1")
    assert "additionalProperties" not in schema


def test_schema_takes_what_was_checked_and_fields_of_later_times() -> None:
    schema = event_schema("no.samband.run.failed.v1")
    assert schema is not None
    check_data("no.samband.run.failed.v1", RUN)
    Draft202012Validator(schema).validate({**RUN, "of_later_times": 1})


@pytest.mark.parametrize(
    ("type", "data", "named"),
    [
        ("no.samband.run.failed.v1", {**RUN, "name": "Kåre Hansen"}, "name (extra_forbidden)"),
        ("no.samband.run.failed.v1", {"run": "r1", "state": "failed"}, "operation (missing)"),
        ("no.samband.run.failed.v1", {**RUN, "run": 7}, "run (string_type)"),
        ("no.samband.run.vanished.v1", RUN, "no.samband.run.vanished.v1 is no event type"),
    ],
)
def test_data_that_is_not_what_its_type_says_is_refused_without_being_quoted(
    type: str, data: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        check_data(type, data)
    assert named in str(refusal.value)
    assert "Hansen" not in str(refusal.value)


def test_filters_are_whole_names_or_beginnings_at_a_dot() -> None:
    assert matches("no.samband.run.*", "no.samband.run.failed.v1")
    assert matches("no.samband.run.failed.v1", "no.samband.run.failed.v1")
    assert not matches("no.samband.ru.*", "no.samband.run.failed.v1")
    assert not matches("no.samband.run", "no.samband.run.failed.v1")


def test_filter_that_lets_nothing_through_is_a_mistake() -> None:
    assert pattern_problem("no.samband.*") is None
    assert "/schemas/events" in (pattern_problem("no.samband.run.suceeded.v1") or "")
    assert "no.samband.run.*" in (pattern_problem("samband.run.*") or "")
