"""Membership data and course enrolments are brought up to date wherever an organisation has them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from samband import Stream
from samband.errors import ConflictError, NotFoundError
from samband.store import Store

from .playing import CHANGES, MEMBERSHIPS, Bench, Source

COURSES = (
    Stream(name="notes", kind="course", title="Not needed"),
    Stream(name="people", kind="member", title="People"),
    Stream(name="courses", kind="course", title="Courses"),
    Stream(
        name="enrollments", kind="course_enrollment", title="Enrolments",
        references={"course": "courses", "member": "people"},
    ),
)  # fmt: skip


@pytest.fixture
async def bench(store: Store) -> AsyncIterator[Bench]:
    running = Bench(store, Source("crm", [CHANGES, MEMBERSHIPS]), Source("registry", [CHANGES]), Source("lms", COURSES))
    await running.connect("hlf")
    yield running
    await running.close()


async def test_each_integration_that_offers_it_gets_one_run(bench: Bench) -> None:
    await bench.connect("hlf", "crm", "registry", "lms")
    started = await bench.service.sync_membership_data("hlf", requested_by="kari")
    told = {run.type: run.streams for run in started.runs}
    # The learning system's people are members too.
    assert {"crm": ["people", "memberships"], "registry": ["people"], "lms": ["people"]} == told
    assert sorted(run.id for run in started.runs) == sorted(bench.bell.rung)
    assert ["succeeded"] * 3 == [(await bench.go_on(run)).state for run in started.runs]


async def test_streams_that_are_referred_to_come_along_in_reading_order(bench: Bench) -> None:
    await bench.connect("hlf", "crm", "lms")
    (run,) = (await bench.service.sync_course_enrollments("hlf", full=True)).runs
    assert ("lms", ["people", "courses", "enrollments"], True) == (run.type, run.streams, run.full)


async def test_run_that_is_alive_is_named_and_goes_on(bench: Bench) -> None:
    await bench.connect("hlf", "crm", "registry")
    alive = await bench.service.trigger_sync("hlf", "crm")
    first = await bench.service.sync_membership_data("hlf")
    assert [alive.id] == [run.id for run in first.already_running]
    assert ["registry"] == [run.type for run in first.runs]
    second = await bench.service.sync_membership_data("hlf")
    assert ([], 2) == (second.runs, len(second.already_running))


async def test_integration_whose_plugin_is_not_loaded_is_named_if_it_ever_brought_it(bench: Bench) -> None:
    await bench.connect("hlf", "crm", "registry", "lms")
    await bench.run()
    smaller = Bench(bench.store, Source("registry", [CHANGES]))
    started = await smaller.service.sync_membership_data("hlf")
    assert ["registry"] == [run.type for run in started.runs]
    assert [("crm", "unknown_plugin")] == [(other.type, other.code) for other in started.not_started]
    await smaller.close()


async def refusal(bench: Bench, *, courses: bool = False) -> ConflictError:
    order = bench.service.sync_course_enrollments if courses else bench.service.sync_membership_data
    with pytest.raises(ConflictError) as refused:
        await order("hlf")
    assert "nothing_connected" == refused.value.code
    return refused.value


async def test_organisation_without_any_is_told_what_to_connect(bench: Bench) -> None:
    assert "crm, lms, registry" in (await refusal(bench)).hint
    assert "lms" in (await refusal(bench, courses=True)).hint


async def test_organisation_whose_integration_is_off_is_told_to_enable_it(bench: Bench) -> None:
    await bench.connect("hlf", "lms")
    await bench.service.integrations.disable("hlf", "lms")
    assert "enable lms" in (await refusal(bench, courses=True)).hint


async def test_where_no_installed_plugin_offers_it_that_is_said(store: Store) -> None:
    bench = Bench(store, Source("crm", [CHANGES]))
    await bench.connect("hlf", "crm")
    refused = await refusal(bench, courses=True)
    assert "None of the installed plugins offers course enrolments" in refused.hint
    await bench.close()


async def test_stream_that_is_switched_off_is_not_offered(bench: Bench) -> None:
    await bench.connect("hlf", "crm", with_memberships=False)
    (run,) = (await bench.service.sync_membership_data("hlf")).runs
    assert ["people"] == run.streams


async def test_unknown_organisation_is_not_there(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        await bench.service.sync_membership_data("nobody")
