"""One bad record costs itself and nothing else; what is unchanged is not even converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samband import Page, Record, Stream
from samband.errors import RejectedError
from samband.kinds import MEMBER
from samband.rules.intake import Intake, Known, StreamPlan, convert_page, page_keys, take_in

CALLS: list[Mapping[str, Any]] = []


def convert(row: Mapping[str, Any], _settings: object) -> Mapping[str, Any]:
    CALLS.append(row)
    if row.get("explode"):
        raise ValueError(row["explode"])
    if row.get("reject"):
        raise RejectedError("The option 9 is unknown.", code="unknown_option", field="status")
    return {k: v for k, v in row.items() if k not in ("explode", "reject")}


def plan(**changes: Any) -> StreamPlan:
    values: dict[str, Any] = {
        "stream": Stream(name="contacts", kind="member", title="Contacts", convert=convert),
        "kind": MEMBER,
        "settings": None,
        "digest": "d1",
        "declared": ("plain", "personal", "special"),
        **changes,
    }
    return StreamPlan.build(**values)


def intake(page: Page, known: Mapping[str, Known] | None = None, using: StreamPlan | None = None) -> Intake:
    known = known or {}
    return take_in(convert_page(page, known, using or plan()), page, known, {})


def row(key: str | None, **values: Any) -> Record:
    return Record(key=key, version="1", values={"status": "active", **values})


def test_known_version_is_not_converted_again() -> None:
    CALLS.clear()
    found = intake(Page(records=[row("a")]), {"a": Known(1, 1, "d1:1", "hash")})
    assert ([], ["a"]) == (CALLS, found.unchanged)


def test_known_version_under_other_settings_is_converted_again() -> None:
    CALLS.clear()
    intake(Page(records=[row("a")]), {"a": Known(1, 1, "d0:1", "hash")})
    assert 1 == len(CALLS)


def test_new_version_with_the_same_values_only_moves_the_tag() -> None:
    first = intake(Page(records=[row("a")])).created[0]
    page = Page(records=[Record(key="a", version="2", values={"status": "active"})])
    found = intake(page, {"a": Known(1, 1, "d1:1", first.hash)})
    assert ([(1, "a", "d1:2")], []) == (found.retagged, found.updated)


@pytest.mark.parametrize(
    ("record", "code", "field"),
    [
        (row(None), "missing_key", "key"),
        (row(""), "missing_key", "key"),
        (row("a\ud800"), "bad_key", "key"),
        (row("a\x00b"), "bad_key", "key"),
        (row("k" * 401), "bad_key", "key"),
        (row("a", first_name="x" * (2 * 1024 * 1024)), "too_long", "first_name"),
        (row("a", first_name="\ud800"), "string_unicode", "first_name"),
        (row("a", first_name="nul\x00"), "not_storable", "first_name"),
        (row("a", birth_date="0001-01-01"), "greater_than_equal", "birth_date"),
        (row("a", birth_date="2001-02-30"), "date_from_datetime_parsing", "birth_date"),
        (row("a", member_number=2**70), "string_type", "member_number"),
        (row("a", status="dancing"), "literal_error", "status"),
        (row("a", diagnosis="secret"), "unknown_key", "diagnosis"),
        (row("a", reject=True), "unknown_option", "status"),
        (row("a", explode="Kari Nordmann"), "conversion_failed", None),
    ],
)
def test_bad_record_names_its_field_and_never_shows_its_value(record: Record, code: str, field: str | None) -> None:
    found = intake(Page(records=[record, row("good")]))
    (failure,) = found.failures
    assert (code, field, "failed") == (failure.code, failure.field, failure.outcome)
    assert ["good"] == [c.key for c in found.created]
    assert "Kari" not in failure.message
    assert "dancing" not in failure.message


def test_later_record_of_a_repeated_key_counts() -> None:
    found = intake(Page(records=[row("a", city="Oslo"), row("b"), row("a", city="Bergen")]))
    assert ["b", "a"] == [c.key for c in found.created]
    assert "Bergen" in found.created[1].body
    assert [("a", "skipped", "duplicate")] == [(f.key, f.outcome, f.code) for f in found.failures]


def test_value_of_an_undeclared_data_class_is_refused() -> None:
    found = intake(Page(records=[row("a")]), using=plan(declared=("plain", "personal")))
    assert [("undeclared_field_class", "status")] == [(f.code, f.field) for f in found.failures]


def test_row_that_is_no_mapping_costs_only_itself() -> None:
    broken = Record(key="a", values=["not", "a", "mapping"])  # type: ignore[arg-type]
    found = intake(Page(records=[broken, row("b")]))
    assert (["a"], ["b"]) == ([f.key for f in found.failures], [c.key for c in found.created])


def test_key_that_is_deleted_and_present_in_one_page_is_present() -> None:
    held = {"a": Known(1, 3, "d1:0", "hash")}
    found = intake(Page(records=[row("a")], deleted=["a"]), held)
    assert ([4], []) == ([u.version for u in found.updated], found.deleted)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from(["1", "2"]), st.sampled_from(["Oslo", "Bergen", 7])),
        max_size=12,
    ),
    st.lists(st.sampled_from("abcdez"), max_size=4),
)
def test_every_record_and_deletion_has_exactly_one_outcome(
    rows: list[tuple[str, str, Any]], deleted: list[str]
) -> None:
    page = Page(
        records=[Record(key=k, version=v, values={"status": "active", "city": c}) for k, v, c in rows], deleted=deleted
    )
    known = {"a": Known(1, 1, "d1:1", "x"), "b": Known(2, 5, None, None)}
    found = intake(page, known)
    assert len(rows) + len(set(deleted)) == sum(found.counts().values())
    assert set(page_keys(page)) == {r[0] for r in rows} | set(deleted)


NASTY = ["half \ud800 a character", "nul\x00inside", "bell\x07", "x" * 5000]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("place", ["code", "field", "message"])
def test_whatever_a_plugin_says_about_a_row_can_be_stored(text: str, place: str) -> None:
    def refuse(row: Mapping[str, Any], _settings: object) -> Mapping[str, Any]:
        told = {"code": "refused", "field": "city", "message": "No.", place: text}
        raise RejectedError(told["message"], code=told["code"], field=told["field"])

    found = intake(
        Page(records=[row("a")]), using=plan(stream=Stream(name="s", kind="member", title="S", convert=refuse))
    )
    (failure,) = found.failures
    for part in (failure.code, failure.field, failure.message):
        assert part is not None
        assert part.encode("utf-8").decode().isprintable()
        assert len(part) <= 500
    assert len(failure.code) <= 64


def test_unknown_key_with_odd_characters_is_named_in_a_form_that_can_be_stored() -> None:
    found = intake(Page(records=[row("a", **{"diag\x00nosis\ud800": "x"})]))
    (failure,) = found.failures
    assert failure.field is not None
    assert failure.field.isprintable()
