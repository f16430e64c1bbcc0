"""What was given up can be looked at, tried again and closed, by a person or by a later run that does the work."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from samband.acting import act_for
from samband.errors import AlreadyRunningError, ConflictError, NotFoundError, RemoteError
from samband.store import Store
from samband.views import DeadLetterView, ErrorView, RunView

from .playing import CHANGES, MEMBERSHIPS, Bench, Source, people

TROUBLE = ErrorView(code="unavailable", message="They are away.")


@pytest.fixture
def source() -> Source:
    return Source("crm", [CHANGES, MEMBERSHIPS])


@pytest.fixture
async def bench(store: Store, source: Source) -> AsyncIterator[Bench]:
    running = Bench(store, source)
    await running.connect("hlf", "crm")
    yield running
    await running.close()


async def give_up(bench: Bench, run: RunView) -> RunView:
    lease = await bench.store.runs.claim(run.id, "w", 30)
    assert lease is not None
    await bench.store.runs.give_up(lease, TROUBLE)
    return await bench.service.runs.get("hlf", run.id)


async def given_up(bench: Bench, org: str = "hlf") -> RunView:
    return await give_up(bench, await bench.service.trigger_sync(org, "crm"))


async def letters(bench: Bench, *, open_only: bool = True) -> list[DeadLetterView]:
    found: list[DeadLetterView] = (await bench.service.runs.dead_letters("hlf", open_only=open_only)).items
    return found


async def test_retry_orders_the_same_again_and_closes_the_letter_with_a_link(bench: Bench) -> None:
    first = await give_up(bench, await bench.service.trigger_sync("hlf", "crm", streams=["people"], full=True))
    again = await bench.service.runs.retry("hlf", first.id, requested_by="kari")
    assert (first.id, ["people"], True, "retry", "queued") == (
        again.retry_of, again.streams, again.full, again.reason, again.state,
    )  # fmt: skip
    assert again.id == bench.bell.rung[-1]
    (letter,) = await letters(bench, open_only=False)
    assert (again.id, "kari") == (letter.retry_run, letter.acknowledged_by)
    assert [] == await letters(bench)
    assert "succeeded" == (await bench.go_on(again)).state


async def test_retry_that_is_given_up_opens_the_letter_again(bench: Bench) -> None:
    first = await given_up(bench)
    again = await bench.service.runs.retry("hlf", first.id, requested_by="kari")
    await give_up(bench, again)
    (letter,) = await letters(bench, open_only=False)
    assert (2, again.id, None, None) == (letter.occurrences, letter.run, letter.acknowledged_by, letter.retry_run)
    third = await bench.service.runs.retry("hlf", again.id, requested_by="kari")
    (letter,) = await letters(bench, open_only=False)
    assert (2, third.id) == (letter.occurrences, letter.retry_run)


async def test_retry_is_refused_while_one_is_alive(bench: Bench) -> None:
    first = await given_up(bench)
    again = await bench.service.runs.retry("hlf", first.id)
    for run in (first, again):
        with pytest.raises(AlreadyRunningError) as refused:
            await bench.service.runs.retry("hlf", run.id)
        assert again.id == refused.value.run_id


async def test_what_succeeded_is_not_retried_and_what_was_partial_is(bench: Bench, source: Source) -> None:
    done = await bench.run()
    with pytest.raises(ConflictError) as refused:
        await bench.service.runs.retry("hlf", done.id)
    assert "nothing_to_retry" == refused.value.code
    source.deliver("people", people(range(0)), people(range(1), "unheard of"))
    partial = await bench.run()
    assert "partial" == partial.state
    assert partial.id == (await bench.service.runs.retry("hlf", partial.id)).retry_of


async def test_stream_that_is_not_read_any_more_is_not_retried(bench: Bench) -> None:
    run = await give_up(bench, await bench.service.trigger_sync("hlf", "crm", streams=["memberships"]))
    await bench.service.integrations.update("hlf", "crm", settings={"with_memberships": False})
    await bench.service.integrations.test("hlf", "crm")
    await bench.service.integrations.enable("hlf", "crm")
    with pytest.raises(ConflictError) as refused:
        await bench.service.runs.retry("hlf", run.id)
    assert "nothing_to_retry" == refused.value.code


async def test_retry_of_a_switched_off_integration_is_refused(bench: Bench) -> None:
    run = await given_up(bench)
    await bench.service.integrations.disable("hlf", "crm")
    with pytest.raises(ConflictError) as refused:
        await bench.service.runs.retry("hlf", run.id)
    assert "not_enabled" == refused.value.code
    assert 1 == len(await letters(bench))


async def test_later_run_that_does_the_work_closes_the_letter_with_a_link(bench: Bench) -> None:
    await given_up(bench)
    done = await bench.run()
    (letter,) = await letters(bench, open_only=False)
    assert (done.id, "samband") == (letter.retry_run, letter.acknowledged_by)


async def test_later_run_that_does_less_leaves_the_letter_open(bench: Bench) -> None:
    await given_up(bench)
    assert "succeeded" == (await bench.run(streams=["people"])).state
    assert 1 == len(await letters(bench))


async def test_later_run_that_fails_leaves_the_letter_open(bench: Bench, source: Source) -> None:
    await given_up(bench)
    source.trouble = RemoteError("They have no such table.")
    assert "failed" == (await bench.run()).state
    assert 1 == len(await letters(bench))


async def test_letters_are_read_part_by_part_newest_first_and_filtered(store: Store) -> None:
    bench = Bench(store, Source("crm", [CHANGES]), Source("lms", [CHANGES]))
    await bench.connect("hlf", "crm", "lms")
    for _ in range(3):
        await given_up(bench)
        (letter,) = await letters(bench)
        await bench.service.runs.acknowledge_dead_letter("hlf", letter.id, "kari")
    await give_up(bench, await bench.service.trigger_sync("hlf", "lms"))
    seen: list[int] = []
    after: str | None = None
    while True:
        page = await bench.service.runs.dead_letters(
            "hlf", open_only=False, after=None if after is None else int(after), limit=2
        )
        seen += [letter.id for letter in page.items]
        if (after := page.next) is None:
            break
    assert sorted(seen, reverse=True) == seen
    assert 4 == len(seen)
    only = await bench.service.runs.dead_letters("hlf", open_only=False, type="lms")
    assert ["lms"] == [letter.type for letter in only.items]
    await bench.close()


async def test_acknowledging_says_who_is_audited_and_is_harmless_to_repeat(bench: Bench) -> None:
    await given_up(bench)
    (letter,) = await letters(bench)
    with act_for(actor="key:1 kari"):
        first = await bench.service.runs.acknowledge_dead_letter("hlf", letter.id, "kari")
        second = await bench.service.runs.acknowledge_dead_letter("hlf", letter.id, "ola")
    assert first == second == await bench.service.runs.dead_letter("hlf", letter.id)
    assert "kari" == first.acknowledged_by
    assert [("key:1 kari", f"dead_letter/{letter.id}")] == await bench.rows(
        "SELECT actor, subject FROM audit_entry WHERE action = 'dead_letter.acknowledged'"
    )


async def test_anothers_letter_is_not_there(bench: Bench) -> None:
    await given_up(bench)
    (letter,) = await letters(bench)
    await bench.connect("nbf")
    for ask in (
        bench.service.runs.dead_letter("nbf", letter.id),
        bench.service.runs.acknowledge_dead_letter("nbf", letter.id, "ola"),
    ):
        with pytest.raises(NotFoundError):
            await ask
    assert 1 == len(await letters(bench))
