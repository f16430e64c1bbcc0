"""Chosen records, failures by cause and dry runs: what is ordered, what is refused, and what a plugin may answer."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from samband import Page, Record, Selection, UnavailableError, hookimpl
from samband.acting import act_for
from samband.adapters.registry import Registry
from samband.api import create_app
from samband.errors import ConflictError, InvalidError, PluginError
from samband.service.backfills import MAX_KEYS, Chosen
from samband.store import Store
from samband.views import RunView

from .playing import CHANGES, MEMBERSHIPS, Bench, Source, people

Answering = Callable[[Selection], Sequence[Page]]


def as_asked(selection: Selection) -> list[Page]:
    """Answers with a person for every key, and with a cursor that nobody should take over."""
    records = [Record(key=key, values={"status": "active", "first_name": key.upper()}) for key in selection.keys]
    return [Page(records=records, cursor="not-for-you"), Page(complete=True, cursor="not-for-you")]


class Chooser(Source):
    """A source that can be asked for chosen records."""

    def __init__(self, *streams: Any) -> None:
        super().__init__("crm", streams or [CHANGES])
        object.__setattr__(self.manifest, "capabilities", frozenset({"sync", "fetch"}))
        self.asked: list[Selection] = []
        self.answer: Answering = as_asked
        self.trouble_from: int | None = None

    @hookimpl
    async def fetch(self, ctx: Any, stream: str, selection: Selection) -> AsyncIterator[Page]:
        self.asked.append(selection)
        if self.trouble_from is not None and len(self.asked) >= self.trouble_from:
            raise UnavailableError("They are away.")
        for page in self.answer(selection):
            yield page


@pytest.fixture
def source() -> Chooser:
    return Chooser()


@pytest.fixture
async def bench(store: Store, source: Chooser) -> AsyncIterator[Bench]:
    running = Bench(store, source, Source("plain", [CHANGES]))
    await running.connect("hlf", "crm", "plain")
    yield running
    await running.close()


async def backfill(bench: Bench, **chosen: Any) -> RunView:
    return await bench.go_on(await bench.service.backfills.order("hlf", "crm", Chosen(stream="people", **chosen)))


async def cursor(bench: Bench) -> list[tuple[Any, ...]]:
    return await bench.rows("SELECT cursor, generation, reading_full, digest, last_read_at FROM stream")


# ── by keys ──────────────────────────────────────────────────────────────────


async def test_many_keys_are_asked_for_in_parts_and_each_key_once(bench: Bench, source: Chooser) -> None:
    keys = [f"k{n}" for n in range(2_500)]
    run = await backfill(bench, keys=[*keys, *keys[:10]])
    assert [1_000, 1_000, 500] == [len(selection.keys) for selection in source.asked]
    assert keys == [key for selection in source.asked for key in selection.keys]
    assert ("succeeded", 2_500, None) == (run.state, run.counts.created, run.error)


async def test_backfill_that_was_cut_off_asks_only_for_what_is_left(bench: Bench, source: Chooser) -> None:
    source.trouble_from = 3
    keys = [f"k{n}" for n in range(2_500)]
    run = await backfill(bench, keys=keys)
    assert ("waiting", 2_000) == (run.state, run.counts.created)
    source.trouble_from = None
    await bench.store.runs.nudge(run.integration)
    run = await bench.go_on(run)
    assert ("succeeded", 2_500, 0) == (run.state, run.counts.created, run.counts.unchanged)
    assert keys[2_000:] == list(source.asked[-1].keys)


async def test_cursor_of_a_fetched_page_is_nobodys(bench: Bench, source: Chooser) -> None:
    source.deliver("people", people(range(3)), people(range(3, 6)))
    await bench.run()
    before = await cursor(bench)
    assert "2" == before[0][0]
    await backfill(bench, keys=["p1"])
    await backfill(bench, since=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert before == await cursor(bench)


async def test_full_read_that_was_cut_off_is_not_ended_by_a_backfill(bench: Bench, source: Chooser) -> None:
    source.deliver("people", people(range(10)))
    await bench.run()
    await bench.service.integrations.disable("hlf", "crm")
    await bench.service.integrations.enable("hlf", "crm")
    source.deliver("people", people(range(5)), people(range(5, 8)))
    held_back = await bench.service.trigger_sync("hlf", "crm", full=True)
    source.trouble = ValueError("a fault of the plugin")
    assert "failed" == (await bench.go_on(held_back)).state
    source.trouble = None
    before = await cursor(bench)
    assert before[0][2] in (True, 1)
    await backfill(bench, keys=["p9"])
    assert before == await cursor(bench)
    run = await bench.run()
    assert 2 == run.counts.deleted  # p8, and p9 too: what a backfill saw last week is no proof today
    assert 8 == await bench.held_records()


async def test_what_is_gone_counts_only_when_it_was_asked_for(bench: Bench, source: Chooser) -> None:
    source.deliver("people", people(range(5)))
    await bench.run()
    source.answer = lambda selection: [Page(deleted=["p1", "p2"], complete=True)]
    for chosen in ({"keys": ["p1"]}, {"since": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}):
        run = await backfill(bench, **chosen)
        assert run.error is not None
        assert ("failed", "contract_broken", 5) == (run.state, run.error.code, await bench.held_records())
    run = await backfill(bench, keys=["p1", "p2"])
    assert (2, 3) == (run.counts.deleted, await bench.held_records())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([Page()], "ended without a page that is complete"),
        ([Page(complete=True), Page()], "another page after the one that was complete"),
        (["page"], "yielded str instead of samband.Page"),
    ],
    ids=["no-end", "two-ends", "no-page"],
)
async def test_fetch_that_breaks_a_promise_fails_the_run(
    bench: Bench, source: Chooser, answer: list[Any], words: str
) -> None:
    source.answer = lambda selection: answer
    run = await backfill(bench, keys=["a"])
    assert run.error is not None
    assert run.error.message.startswith("crm: fetch ")
    assert words in run.error.message


async def test_backfill_that_would_take_too_much_away_is_held_and_goes_on_when_approved(
    bench: Bench, source: Chooser
) -> None:
    source.deliver("people", people(range(100)))
    await bench.run()
    source.answer = lambda selection: [Page(deleted=list(selection.keys), complete=True)]
    run = await backfill(bench, keys=[f"p{n}" for n in range(40)])
    assert ("held", 100) == (run.state, await bench.held_records())
    with act_for(organization="hlf", actor="key:1 Kari"):
        await bench.service.runs.approve("hlf", run.id, reason="They have left.")
    run = await bench.go_on(run)
    assert ("succeeded", 40, 60) == (run.state, run.counts.deleted, await bench.held_records())


async def test_what_is_waited_for_is_not_forgotten_by_a_backfill(store: Store) -> None:
    source = Chooser(CHANGES, MEMBERSHIPS)
    bench = Bench(store, source)
    await bench.connect("hlf", "crm")
    source.deliver("people", people(range(2)))
    source.deliver("memberships", Page(records=[Record(key="m1", values={"member": "p5", "status": "active"})]))
    assert 1 == (await bench.run()).counts.failed
    (since,) = await bench.rows("SELECT unresolved_since FROM stream WHERE name = 'memberships'")
    # The person arrives by a backfill, and another membership fails in one: the first must still be waited for.
    await backfill(bench, keys=["p5"])
    source.answer = lambda selection: [
        Page(records=[Record(key="m2", values={"member": "p9", "status": "active"})], complete=True)
    ]
    await bench.go_on(await bench.service.backfills.order("hlf", "crm", Chosen(stream="memberships", keys=["m2"])))
    assert [since] == await bench.rows("SELECT unresolved_since FROM stream WHERE name = 'memberships'")
    source.deliver("people", people(range(2)), Page())
    run = await bench.run()
    assert any("has arrived" in note for note in run.notes)
    assert 1 == await bench.held_records(kind="membership")
    await bench.close()


# ── what is refused ──────────────────────────────────────────────────────────

NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        (Chosen(stream="people"), ("keys", "keys_or_window")),
        (Chosen(stream="people", keys=["a"], since=NOW - HOUR), ("keys", "keys_or_window")),
        (Chosen(stream="people", keys=["a"], until=NOW - HOUR), ("until", "keys_or_window")),
        (Chosen(stream="people", keys=[]), ("keys", "bad_count")),
        (Chosen(stream="people", keys=[f"{n}" for n in range(MAX_KEYS + 1)]), ("keys", "bad_count")),
        (Chosen(stream="people", keys=["a", ""]), ("keys.1", "bad_key")),
        (Chosen(stream="people", keys=["a", "b\x00"]), ("keys.1", "bad_key")),
        (Chosen(stream="people", keys=["x" * 401]), ("keys.0", "bad_key")),
        (Chosen(stream="people", keys=["\ud800"]), ("keys.0", "bad_key")),
        (Chosen(stream="nothing", keys=["a"]), ("stream", "unknown_stream")),
        (Chosen(stream="people", since=NOW + HOUR), ("since", "in_future")),
        (Chosen(stream="people", since=NOW - HOUR, until=NOW + HOUR), ("until", "in_future")),
        (Chosen(stream="people", since=NOW - HOUR, until=NOW - HOUR), ("until", "before_since")),
        (Chosen(stream="people", since=dt.datetime(2026, 1, 1)), ("since", "no_zone")),
    ],
    ids=[
        "nothing-chosen", "keys-and-since", "keys-and-until", "no-keys", "too-many-keys", "empty-key", "key-with-nul",
        "long-key", "surrogate-key", "unknown-stream", "since-in-future", "until-in-future", "until-not-after-since",
        "no-zone",
    ],
)  # fmt: skip
async def test_choice_that_makes_no_sense_is_refused_with_its_field(
    bench: Bench, chosen: Chosen, problem: tuple[str, str]
) -> None:
    with pytest.raises(InvalidError) as caught:
        await bench.service.backfills.order("hlf", "crm", chosen)
    assert problem in [(p.field, p.code) for p in caught.value.problems]
    assert [] == await bench.rows("SELECT id FROM run")


async def test_window_without_an_end_ends_when_it_is_ordered(bench: Bench, source: Chooser) -> None:
    before = dt.datetime.now(dt.UTC)
    run = await backfill(bench, since=NOW - HOUR)
    (asked,) = source.asked
    assert asked.until is not None
    assert before <= asked.until <= dt.datetime.now(dt.UTC)
    assert run.selection is not None
    assert (NOW - HOUR, asked.until) == (asked.since, run.selection["people"].until)


async def test_plugin_without_fetch_says_what_to_do_instead(bench: Bench) -> None:
    with pytest.raises(ConflictError) as caught:
        await bench.service.backfills.order("hlf", "plain", Chosen(stream="people", keys=["a"]))
    assert ("backfill_unsupported", True) == (caught.value.code, "full run" in caught.value.hint)
    dry = await bench.service.backfills.order_dry_run("hlf", "plain")
    assert "succeeded" == (await bench.go_on(dry)).state


async def test_integration_that_is_not_enabled_takes_no_backfill(bench: Bench) -> None:
    await bench.service.integrations.disable("hlf", "crm")
    with pytest.raises(ConflictError) as caught:
        await bench.service.backfills.order("hlf", "crm", Chosen(stream="people", keys=["a"]))
    assert "not_enabled" == caught.value.code


def test_fetch_of_the_wrong_shape_is_not_admitted() -> None:
    class Wrong(Source):
        @hookimpl
        async def fetch(self, ctx: Any, stream: str, selection: Selection) -> list[Page]:
            return []

    with pytest.raises(PluginError) as caught:
        Registry().add(Wrong("wrong", [CHANGES]), name="wrong", distribution="x", version="1.0")
    assert "fetch must be an async generator" in str(caught.value)
    assert "fetch is implemented, but 'fetch' is missing in capabilities" in str(caught.value)


async def test_orders_stand_in_the_audit_trail_without_the_keys(bench: Bench, source: Chooser) -> None:
    await backfill(bench, keys=["a-person"])
    await bench.service.backfills.order_dry_run("hlf", "crm")
    told = await bench.rows("SELECT action, detail FROM audit_entry ORDER BY seq")
    assert {"backfill.ordered", "dry_run.ordered"} <= {action for action, _ in told}
    assert "a-person" not in str(told)


# ── dry runs ─────────────────────────────────────────────────────────────────


def page_of(rng: random.Random) -> Page:
    """Gives a page of a source that does whatever it likes: keys again and again, changed, deleted, broken."""
    records = []
    for _ in range(rng.randrange(6)):
        key = rng.choice(["", *(f"p{n}" for n in range(12))])
        status = rng.choice(["active", "active", "inactive", "nonsense"])
        values = {"status": status, "first_name": rng.choice("ABC")}
        records.append(Record(key=key or None, values=values, version=rng.choice([None, "1", "2"])))
    return Page(records=records, deleted=[f"p{rng.randrange(14)}" for _ in range(rng.randrange(3))])


def belongings_of(rng: random.Random) -> Page:
    values = [{"member": f"p{rng.randrange(14)}", "status": "active"} for _ in range(rng.randrange(8))]
    return Page(records=[Record(key=f"m{rng.randrange(9)}", values=one) for one in values])


@pytest.mark.parametrize("attempt", range(6))
async def test_sync_does_what_the_dry_run_before_it_told_whatever_the_source_does(store: Store, attempt: int) -> None:
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    source = Chooser(CHANGES, MEMBERSHIPS)
    bench = Bench(store, source)
    await bench.connect("hlf", "crm")
    for _ in range(3):
        more = [page_of(rng) for _ in range(rng.randrange(1, 5))]
        full = rng.random() < 0.4
        before = [] if full else source.pages.get("people", [])
        source.deliver("people", *before, *more)
        source.deliver("memberships", *source.pages.get("memberships", []), belongings_of(rng))
        dry = await bench.go_on(await bench.service.backfills.order_dry_run("hlf", "crm", full=full))
        found = (await bench.service.backfills.differences("hlf", dry.id, limit=500)).items
        run = await bench.run(full=full)
        did = (await bench.service.runs.outcomes("hlf", run.id, limit=500)).items
        assert (dry.counts, seed) == (run.counts, seed)
        # In order, except that a sync tells the changes of a page first and this the failures beside them.
        told = [(d.stream, d.key, d.op, d.code, d.field) for d in found]
        assert sorted(told, key=str) == sorted(((o.stream, o.key, o.outcome, o.code, o.field) for o in did), key=str)
        await became_as_told(bench, found, seed)
    await bench.close()


async def became_as_told(bench: Bench, found: Sequence[Any], seed: int) -> None:
    last = {(d.stream, d.key): d for d in found if d.op in ("created", "updated", "deleted")}
    for (stream, key), difference in last.items():
        query = (
            "SELECT r.deleted, r.id FROM binding b JOIN stream s ON s.id = b.stream_id JOIN record r ON r.id = "
            f"b.record_id AND r.kind = s.kind WHERE s.name = '{stream}' AND b.key = '{key}'"
        )
        ((is_deleted, id),) = await bench.rows(query)
        assert (bool(is_deleted), seed) == (difference.op == "deleted", seed)
        kind = "member" if stream == "people" else "membership"
        values = (await bench.service.records.get("hlf", kind, id)).values
        for name, value in difference.after.items():
            if isinstance(value, dict):
                ((value,),) = await bench.rows(
                    "SELECT record_id FROM binding b JOIN stream s ON s.id = b.stream_id "
                    f"WHERE s.name = 'people' AND b.key = '{value['key']}'"
                )
            assert (value, name, seed) == (values[name], name, seed)


async def test_values_are_told_to_nobody_but_who_asks_for_the_differences(bench: Bench, source: Chooser) -> None:
    source.deliver("people", Page(records=[Record(key="k", values={"status": "active", "first_name": "Hemmelig"})]))
    with capture_logs() as logs:
        run = await bench.go_on(await bench.service.backfills.order_dry_run("hlf", "crm"))
    told = (await bench.service.backfills.differences("hlf", run.id)).items
    assert "Hemmelig" == told[0].after["first_name"]
    everything = [logs, run.model_dump()]
    for table in ("outbox", "audit_entry", "run"):
        everything += await bench.rows(f"SELECT * FROM {table}")
    assert "Hemmelig" not in str(everything)
    assert [] == await bench.rows("SELECT type FROM outbox WHERE type LIKE '%run%'")


async def test_dry_run_that_was_cancelled_keeps_nothing_more(bench: Bench, source: Chooser) -> None:
    source.deliver("people", people(range(3)), people(range(3, 6)))
    ordered = await bench.service.backfills.order_dry_run("hlf", "crm")
    await bench.set_run(ordered.id, cancel_requested_at=dt.datetime.now(dt.UTC))
    assert "cancelled" == (await bench.go_on(ordered)).state
    assert [] == await bench.rows("SELECT key FROM difference")


async def test_given_up_dry_run_leaves_no_dead_letter(bench: Bench, source: Chooser) -> None:
    source.trouble = UnavailableError("They are away.")
    ordered = await bench.service.backfills.order_dry_run("hlf", "crm")
    await bench.set_run(ordered.id, attempt=10)
    assert "failed" == (await bench.go_on(ordered)).state
    assert [] == await bench.rows("SELECT id FROM dead_letter")


# ── over HTTP ────────────────────────────────────────────────────────────────

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(bench.service))) as opened:
        yield opened


async def key_for(bench: Bench, *verbs: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {await bench.service.create_key('test', verbs=verbs, organizations=['hlf'])}"}


async def test_backfill_retry_and_dry_run_are_ordered_and_followed_over_http(
    bench: Bench, source: Chooser, client: Client
) -> None:
    key = await key_for(bench, "read", "operate")
    root = "/v1/organizations/hlf"
    source.answer = lambda selection: [
        Page(records=[Record(key=k, values={"status": "nonsense"}) for k in selection.keys], complete=True)
    ]
    order = {"stream": "people", "keys": ["a", "b", "c", "d", "e", "f"]}
    ordered = await client.post(f"{root}/integrations/crm/backfills", json=order, headers=key)
    run = await ordered.json()
    assert (202, f"{root}/runs/{run['id']}") == (ordered.status, ordered.headers["Location"])
    assert {"people": {"keys": 6, "since": None, "until": None}} == run["selection"]
    await bench.flow.execute(run["id"])

    causes = (await (await client.get(f"{root}/runs/{run['id']}/failures", headers=key)).json())["items"]
    assert [("people", "status", 6, ["a", "b", "c", "d", "e"])] == [
        (c["stream"], c["field"], c["count"], c["keys"]) for c in causes
    ]
    source.answer = as_asked
    retried = await client.post(f"{root}/runs/{run['id']}/retry-failed", headers=key)
    retry = await retried.json()
    assert (202, 6, 0, run["id"]) == (
        retried.status, retry["records"], retry["without_key"], retry["run"]["retry_of"]
    )  # fmt: skip
    assert f"{root}/runs/{retry['run']['id']}" == retried.headers["Location"]
    await bench.flow.execute(retry["run"]["id"])
    assert 6 == (await bench.service.runs.get("hlf", retry["run"]["id"])).counts.created

    source.deliver("people", people(range(150)))
    order = {"limit": 140, "streams": ["people"]}
    dry = await (await client.post(f"{root}/integrations/crm/dry-runs", json=order, headers=key)).json()
    assert "dry_run" == dry["operation"]
    await bench.flow.execute(dry["id"])
    first = await (await client.get(f"{root}/runs/{dry['id']}/differences", headers=key)).json()
    rest = await (await client.get(f"{root}/runs/{dry['id']}/differences?after={first['next']}", headers=key)).json()
    assert (100, "100", 40, None) == (len(first["items"]), first["next"], len(rest["items"]), rest["next"])
    none = await client.get(f"{root}/runs/{dry['id']}/differences?op=deleted", headers=key)
    assert [] == (await none.json())["items"]


async def test_refusals_over_http_name_their_code_and_the_way_out(bench: Bench, client: Client) -> None:
    key, reader = await key_for(bench, "read", "operate"), await key_for(bench, "read")
    root = "/v1/organizations/hlf"
    run = await bench.run()
    chosen = {"stream": "people", "keys": ["a"]}

    async def refused(method: str, path: str, headers: dict[str, str] = key, **options: Any) -> tuple[int, str]:
        answer = await client.request(method, path, headers=headers, **options)
        return answer.status, (await answer.json())["code"]

    assert (409, "backfill_unsupported") == await refused("POST", f"{root}/integrations/plain/backfills", json=chosen)
    assert (409, "nothing_failed") == await refused("POST", f"{root}/runs/{run.id}/retry-failed")
    assert (409, "not_a_dry_run") == await refused("GET", f"{root}/runs/{run.id}/differences")
    assert (404, "run_not_found") == await refused("POST", f"{root}/runs/no-such-run/retry-failed")
    assert (404, "run_not_found") == await refused("GET", f"{root}/runs/no-such-run/failures")
    for path in ("integrations/crm/backfills", "integrations/crm/dry-runs", f"runs/{run.id}/retry-failed"):
        assert (403, "access_refused") == await refused("POST", f"{root}/{path}", reader, json=chosen)
        other = f"/v1/organizations/nbf/{path}"
        assert (404, "organization_not_found") == await refused("POST", other, json=chosen)
    for since in (1_700_000_000, "1700000000", "yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", True):
        body = {"stream": "people", "since": since}
        assert (422, "invalid_request") == await refused("POST", f"{root}/integrations/crm/backfills", json=body)
    dry = await bench.go_on(await bench.service.backfills.order_dry_run("hlf", "crm"))
    await bench.go_on(await bench.service.backfills.order_dry_run("hlf", "crm"))
    assert (410, "differences_gone") == await refused("GET", f"{root}/runs/{dry.id}/differences")
