"""Mappings with everything around them: versions, what claims come to, and whether it holds at the other side."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from samband import CredentialsModel, Manifest, SettingsModel, Token, hookimpl
from samband.acting import act_for
from samband.adapters.registry import Registry
from samband.caretaker import Caretaker
from samband.charts import ChartReader
from samband.errors import ConflictError, ContractError, InvalidError, NotFoundError, UnavailableError
from samband.outgoing import Chart, ChartEntry, ChartPeriod
from samband.service import Service
from samband.store import Store
from samband.store.charts import periods_in
from samband.store.mappings import active_in
from samband.store.models import ChartCopy, Integration

from .playing import SilentBell

MAPPING: dict[str, Any] = {
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id}"},
    "expense_types": {
        "mileage": {"account": "7100", "allowance": {"rates": "car", "taxable_account": "5330"}},
        "toll": {"account": "7140", "tax_rule": "1"},
        "hotel": {"excluded": True},
    },
    "rates": {"car": [{"valid_from": "2026-01-01", "rate": "5.30", "tax_free": "3.50"}]},
    "dimensions": {"department": "10"},
}
CLAIM: dict[str, Any] = {
    "payee": {"id": "p-17", "name": "Kari Nordmann"}, "currency": "NOK", "status": "approved",
    "lines": [
        {"expense_type": "mileage", "amount": "138.00", "date": "2026-03-01", "kilometres": "20", "rate": "5.30",
         "toll": "32.00"}
    ],
}  # fmt: skip
FAR = dt.date(2199, 1, 1)
_copy: sa.Table = ChartCopy.__table__


class Settings(SettingsModel):
    pass


class Credentials(CredentialsModel):
    pass


class Books:
    """A plugin whose chart is what a test says.

    Attributes:
        chart: Given when it is asked for.
        trouble: Raised instead.
        asked: How often it was asked for.
    """

    manifest = Manifest(
        name="books", title="Books", version="1.0", settings=Settings, credentials=Credentials,
        capabilities=frozenset({"chart"}),
    )  # fmt: skip

    def __init__(self) -> None:
        self.given: Any = chart()
        self.trouble: Exception | None = None
        self.asked = 0

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def chart(self, ctx: Any) -> Any:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return self.given


class Silent:
    """A plugin without a chart."""

    manifest = Manifest(
        name="silent", title="Silent", version="1.0", settings=Settings, credentials=Credentials,
    )  # fmt: skip

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))


def chart(*closed: str, without: str = "", **given: Any) -> Chart:
    codes = [code for code in ("2910", "5330", "7100", "7140", "7141") if code != without]
    entries = [ChartEntry(code=code, text=f"Account {code}", is_open=code not in closed) for code in codes]
    year = ChartPeriod(first=dt.date(2026, 1, 1), last=dt.date(2199, 12, 31), is_open=True)
    return Chart(
        accounts=entries, dimensions={"department": [ChartEntry(code="10")]}, tax_rules=[ChartEntry(code="1")],
        **{"periods": [year], **given},
    )  # fmt: skip


class Desk:
    """A service with two plugins and one organisation that is connected to both."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.books = Books()
        self.registry = Registry()
        for plugin in (self.books, Silent()):
            self.registry.add(plugin, name=plugin.manifest.name, distribution="samband-fake", version="1.0")
        self.service = Service(store=store, registry=self.registry, bell=SilentBell())
        self.reader = ChartReader(store=store, registry=self.registry)
        self.caretaker = Caretaker(store=store, registry=self.registry)

    async def connect(self, org: str = "hlf") -> None:
        await self.service.organizations.create(org, org.upper())
        for type in ("books", "silent"):
            await self.service.integrations.create(org, type, settings={}, credentials={})
            await self.service.integrations.test(org, type)
            await self.service.integrations.enable(org, type)

    async def put(self, mapping: dict[str, Any] = MAPPING, **given: Any) -> Any:
        return await self.service.mappings.put("hlf", "books", mapping, **given)

    async def claim(self, claim_id: str, *, org: str = "hlf", **values: Any) -> None:
        told = await self.service.reimbursements.put(org, claim_id, {**CLAIM, **values})
        assert told is not None

    async def integration(self, org: str = "hlf") -> Integration:
        return await self.store.catalog.integration(org, "books")

    async def make_due(self) -> None:
        long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        async with self.store.database.write() as conn:
            await conn.execute(sa.update(_copy).values(next_read_at=long_ago))

    async def open_alerts(self) -> list[tuple[str, str]]:
        await self.caretaker.look_after("hlf")
        page = await self.service.health.alerts("hlf")
        return sorted((alert.kind, alert.message) for alert in page.items)


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    desk = Desk(store)
    await desk.connect()
    yield desk
    await desk.registry.close()


def with_toll(account: str) -> dict[str, Any]:
    return {**MAPPING, "expense_types": {**MAPPING["expense_types"], "toll": {"account": account}}}


# ── versions ─────────────────────────────────────────────────────────────────


async def test_every_change_is_a_version_and_the_same_again_is_none(desk: Desk) -> None:
    first = await desk.put(note="to begin with")
    again = await desk.put(note="whatever")
    second = await desk.put(with_toll("7141"))
    assert [1, 1, 2] == [first.version, again.version, second.version]
    assert ("to begin with", True, True) == (again.note, again.is_active, again.is_newest)
    listed = await desk.service.mappings.versions("hlf", "books")
    assert [(2, True), (1, False)] == [(row.version, row.is_active) for row in listed.items]
    assert first.mapping == (await desk.service.mappings.version("hlf", "books", 1)).mapping


async def test_versions_are_read_part_by_part(desk: Desk) -> None:
    for account in ("1", "2", "3"):
        await desk.put(with_toll(account))
    part = await desk.service.mappings.versions("hlf", "books", limit=2)
    rest = await desk.service.mappings.versions("hlf", "books", after=part.next, limit=2)
    assert ([3, 2], [1], None) == (
        [row.version for row in part.items], [row.version for row in rest.items], rest.next
    )  # fmt: skip


async def test_a_version_says_who_saved_it_and_the_trail_only_its_digest(desk: Desk) -> None:
    with act_for(organization="hlf", actor="key:abc economy"):
        saved = await desk.put(note="because Kari said so")
    assert "key:abc economy" == saved.author
    page = await desk.service.audit.page("hlf")
    (entry,) = [row for row in page.items if row.action == "mapping.saved"]
    assert {"version": 1, "digest": saved.digest, "effective_from": str(saved.effective_from)} == entry.detail
    assert "key:abc economy" == entry.actor


async def test_a_stale_edit_is_refused(desk: Desk) -> None:
    await desk.put(if_version=0)
    await desk.put(with_toll("7141"), if_version=1)
    with pytest.raises(ConflictError) as refused:
        await desk.put(with_toll("7142"), if_version=1)
    assert "revision_mismatch" == refused.value.code
    assert 2 == (await desk.service.mappings.get("hlf", "books")).version


async def test_of_many_who_save_at_once_on_the_same_version_one_gets_through(desk: Desk) -> None:
    await desk.put()
    saves = [desk.put(with_toll(f"80{n:02}"), if_version=1) for n in range(8)]
    results = await asyncio.gather(*saves, return_exceptions=True)
    refused = [result for result in results if isinstance(result, ConflictError)]
    assert 7 == len(refused), results
    assert {"revision_mismatch"} == {error.code for error in refused}
    assert 2 == (await desk.service.mappings.get("hlf", "books")).version


async def test_a_version_with_a_later_day_is_not_in_force_before_that_day(desk: Desk) -> None:
    await desk.put()
    planned = await desk.put(with_toll("7141"), effective_from=FAR)
    assert (2, False, 1) == (planned.version, planned.is_active, planned.active_version)
    integration = await desk.integration()
    async with desk.store.database.read() as conn:
        days = (dt.date(2020, 1, 1), FAR - dt.timedelta(days=1), FAR)
        found = [await active_in(conn, integration.id, day) for day in days]
    assert [None, 1, 2] == [each and each[0] for each in found]
    assert [None, "7140", "7141"] == [each and each[1].expense_types["toll"].account for each in found]


async def test_the_same_mapping_from_another_day_on_is_a_version_of_its_own(desk: Desk) -> None:
    await desk.put(effective_from=FAR)
    assert 1 == (await desk.put(effective_from=FAR)).version
    now = await desk.put()
    assert (2, True) == (now.version, now.is_active)


async def test_who_saves_over_a_plan_is_told_that_it_will_not_come_into_force(desk: Desk) -> None:
    await desk.put()
    await desk.put(with_toll("7141"), effective_from=FAR)
    saved = await desk.put(with_toll("7142"))
    assert ["plan_overtaken"] == [warning.code for warning in saved.warnings]
    assert str(FAR) in saved.warnings[0].message


async def test_an_earlier_version_is_restored_as_the_newest(desk: Desk) -> None:
    await desk.put()
    await desk.put(with_toll("7141"))
    restored = await desk.service.mappings.restore("hlf", "books", 1, note="back")
    assert (3, 1, True, "back") == (restored.version, restored.restored_from, restored.is_active, restored.note)
    assert [] == (await desk.service.mappings.diff("hlf", "books", before=1, after=3)).differences
    assert [("expense_types.toll.account", "7141", "7140")] == [
        (d.field, d.before, d.after)
        for d in (await desk.service.mappings.diff("hlf", "books")).differences
        if d.field == "expense_types.toll.account"
    ]


async def test_what_is_not_there_is_said_to_be_not_there(desk: Desk) -> None:
    codes = []
    mappings = desk.service.mappings
    for asked in (
        mappings.get("hlf", "books"),
        mappings.version("hlf", "books", 1),
        mappings.diff("hlf", "books"),
        mappings.restore("hlf", "books", 1),
        mappings.preview("hlf", "books"),
        mappings.check("hlf", "books"),
        mappings.get("hlf", "nothing"),
        mappings.get("nobody", "books"),
    ):
        with pytest.raises(NotFoundError) as refused:
            await asked
        codes.append(refused.value.code)
    expected = ["mapping_not_found", "mapping_version_not_found", "mapping_not_found", "mapping_version_not_found",
                "mapping_not_found", "mapping_not_found", "integration_not_found", "organization_not_found"]  # fmt: skip
    assert expected == codes


async def test_a_mapping_that_lacks_an_account_is_not_saved(desk: Desk) -> None:
    with pytest.raises(InvalidError) as refused:
        await desk.put({**MAPPING, "expense_types": {"toll": {}}})
    assert "mapping_incomplete" == refused.value.code
    assert ["mapping.expense_types.toll.account"] == [problem.field for problem in refused.value.problems]
    with pytest.raises(NotFoundError):
        await desk.service.mappings.get("hlf", "books")


# ── against the chart ────────────────────────────────────────────────────────


async def test_saving_warns_of_what_the_other_side_would_refuse(desk: Desk) -> None:
    await desk.put()
    await desk.service.mappings.check("hlf", "books", refresh=True)
    saved = await desk.put(with_toll("7149"))
    (warning,) = saved.warnings
    assert ("account_unknown", "expense_types.toll.account", "7140") == (
        warning.code, warning.field, warning.suggestion
    )  # fmt: skip
    assert "Did you mean 7140 Account 7140?" in warning.message
    assert 2 == saved.version


async def test_with_strict_what_the_other_side_would_refuse_is_not_saved(desk: Desk) -> None:
    await desk.put()
    await desk.service.mappings.check("hlf", "books", refresh=True)
    with pytest.raises(InvalidError) as refused:
        await desk.put(with_toll("7149"), strict=True)
    assert [("mapping.expense_types.toll.account", "account_unknown")] == [
        (problem.field, problem.code) for problem in refused.value.problems
    ]
    assert 1 == (await desk.service.mappings.get("hlf", "books")).version


async def test_without_a_chart_nothing_can_be_warned_of(desk: Desk) -> None:
    saved = await desk.put(with_toll("7149"), strict=True)
    checked = await desk.service.mappings.check("hlf", "books")
    assert ([], False, None) == (saved.warnings, checked.ok, checked.read_at)
    assert 0 == desk.books.asked


async def test_the_check_reads_the_chart_when_it_is_asked_to(desk: Desk) -> None:
    await desk.put()
    good = await desk.service.mappings.check("hlf", "books", refresh=True)
    assert (True, [], 1, []) == (good.ok, good.findings, good.version, good.unchecked)
    desk.books.given = chart("7140")
    assert (await desk.service.mappings.check("hlf", "books")).ok
    found = await desk.service.mappings.check("hlf", "books", refresh=True)
    assert [("account_closed", "expense_types.toll.account")] == [(f.code, f.field) for f in found.findings]
    assert 2 == desk.books.asked


async def test_trouble_at_the_other_side_is_an_answer_and_keeps_what_was_read(desk: Desk) -> None:
    await desk.put()
    before = await desk.service.mappings.check("hlf", "books", refresh=True)
    desk.books.trouble = UnavailableError("They are away.")
    for failures in (1, 2):
        found = await desk.service.mappings.check("hlf", "books", refresh=True)
        assert found.trouble is not None
        assert ("unavailable", failures, before.read_at, False) == (
            found.trouble.code, found.trouble.failures, found.read_at, found.ok
        )  # fmt: skip
    desk.books.trouble = None
    assert (await desk.service.mappings.check("hlf", "books", refresh=True)).ok


async def test_a_plugin_without_a_chart_cannot_be_checked(desk: Desk) -> None:
    await desk.service.mappings.put("hlf", "silent", MAPPING)
    assert not (await desk.service.mappings.check("hlf", "silent")).ok
    with pytest.raises(NotFoundError) as refused:
        await desk.service.mappings.check("hlf", "silent", refresh=True)
    assert "chart_unsupported" == refused.value.code


@pytest.mark.parametrize(
    "given",
    [
        "a text",
        chart(without="none of them", periods=[ChartPeriod(first=FAR, last=dt.date(2026, 1, 1), is_open=True)]),
        Chart(accounts="7140"),  # type: ignore[arg-type]
        Chart(accounts=["7140"]),  # type: ignore[list-item]
        Chart(accounts=[ChartEntry(code="7140"), ChartEntry(code="7140", is_open=False)]),
        Chart(accounts=[ChartEntry(code="")]),
        Chart(accounts=[ChartEntry(code="71\n40")]),
        Chart(accounts=[ChartEntry(code=7140)]),  # type: ignore[arg-type]
        Chart(accounts=[ChartEntry(code="7140", is_open=1)]),  # type: ignore[arg-type]
        Chart(accounts=[], dimensions=[]),  # type: ignore[arg-type]
        Chart(accounts=[], dimensions={"": []}),
        Chart(accounts=[], periods=[ChartPeriod(first="2026-01-01", last=FAR, is_open=True)]),  # type: ignore[arg-type]
    ],
)
async def test_a_chart_that_is_none_is_the_plugins_fault(desk: Desk, given: Any) -> None:
    desk.books.given = given
    with pytest.raises(ContractError):
        await desk.reader.read(await desk.integration())
    await desk.put()
    assert not (await desk.service.mappings.check("hlf", "books")).ok


async def test_periods_are_read_for_who_makes_vouchers(desk: Desk) -> None:
    integration = await desk.integration()

    async def known() -> Any:
        async with desk.store.database.read() as conn:
            return await periods_in(conn, integration.id)

    assert await known() is None
    march = ChartPeriod(first=dt.date(2026, 3, 1), last=dt.date(2026, 3, 31), is_open=False)
    desk.books.given = chart(periods=[march])
    await desk.reader.read(integration)
    assert (march,) == await known()
    desk.books.given = chart(periods=None)
    await desk.reader.read(integration)
    assert await known() is None


# ── every day, by itself ─────────────────────────────────────────────────────


async def test_charts_of_integrations_with_a_mapping_are_read_once_a_day(desk: Desk) -> None:
    assert 60.0 == await desk.reader.round()
    assert 0 == desk.books.asked  # nothing is mapped yet
    await desk.put()
    for _ in range(3):
        await desk.reader.round()
    assert 1 == desk.books.asked
    await desk.make_due()
    await desk.reader.round()
    assert 2 == desk.books.asked


async def test_an_integration_that_is_switched_off_is_left_alone(desk: Desk) -> None:
    await desk.put()
    await desk.service.integrations.disable("hlf", "books")
    await desk.reader.round()
    assert 0 == desk.books.asked


async def test_many_processes_read_a_chart_once(desk: Desk) -> None:
    await desk.put()
    readers = [ChartReader(store=desk.store, registry=desk.registry) for _ in range(6)]
    for asked in (1, 2):
        await asyncio.gather(*(reader.round() for reader in readers))
        assert asked == desk.books.asked
        await desk.make_due()


async def test_a_reading_that_fails_is_tried_again_later_and_later(desk: Desk) -> None:
    await desk.put()
    desk.books.trouble = UnavailableError("They are away.")
    waits = []
    for _ in range(3):
        await desk.reader.round()
        await desk.reader.round()  # not due yet
        async with desk.store.database.read() as conn:
            row = (await conn.execute(sa.select(_copy))).one()
        waits.append(round((row.next_read_at - dt.datetime.now(dt.UTC)).total_seconds() / 900))
        await desk.make_due()
    assert ([1, 2, 4], 3) == (waits, desk.books.asked)


async def test_one_organisations_trouble_does_not_keep_the_other_from_being_read(desk: Desk) -> None:
    await desk.connect("nbf")
    await desk.put()
    await desk.service.mappings.put("nbf", "books", MAPPING)
    desk.books.given = "no chart"
    await desk.reader.round()
    assert 2 == desk.books.asked


async def test_what_no_longer_holds_is_told_once_and_again_when_it_is_mended(desk: Desk) -> None:
    await desk.put()
    await desk.reader.round()
    assert [] == await desk.open_alerts()
    desk.books.given = chart("7140")
    await desk.make_due()
    await desk.reader.round()
    closed = [("mapping_account_closed", "The account 7140 Account 7140 is closed. Did you mean 7141 Account 7141?")]
    for _ in range(2):
        assert closed == await desk.open_alerts()
    events = await desk.store.events.after("hlf", 0, limit=100)
    told = [row for row in events.rows if row.type == "no.samband.alert.opened.v1"]
    assert 1 == len(told)
    assert "toll" not in told[0].subject
    await desk.put(with_toll("7141"))  # without another reading
    assert [] == await desk.open_alerts()


async def test_a_second_thing_that_breaks_is_told_though_the_first_is_known(desk: Desk) -> None:
    await desk.put()
    desk.books.given = chart("7140")
    await desk.reader.round()
    assert 1 == len(await desk.open_alerts())
    desk.books.given = chart("7140", without="7100")
    await desk.make_due()
    await desk.reader.round()
    assert ["mapping_account_closed", "mapping_account_unknown"] == [kind for kind, _ in await desk.open_alerts()]


async def test_accounts_that_cannot_be_read_for_long_are_told(desk: Desk) -> None:
    await desk.put()
    desk.books.trouble = UnavailableError("They are away.")
    kinds = []
    for _ in range(3):
        await desk.reader.round()
        kinds.append([kind for kind, _ in await desk.open_alerts()])
        await desk.make_due()
    assert [[], [], ["mapping_unchecked"]] == kinds


# ── what claims come to ──────────────────────────────────────────────────────


async def test_the_preview_shows_vouchers_as_the_accountant_will_see_them(desk: Desk) -> None:
    await desk.put()
    await desk.reader.round()
    await desk.claim("c-1", approved_on="2026-03-05")
    (item,) = (await desk.service.mappings.preview("hlf", "books")).items
    assert item.voucher is not None
    assert [
        ("7100", "Account 7100", "70.00", None), ("5330", "Account 5330", "36.00", None),
        ("7140", "Account 7140", "32.00", None), ("2910", "Account 2910", None, "138.00"),
    ] == [(line.account, line.account_name, line.debit, line.credit) for line in item.voucher.lines]  # fmt: skip
    assert ("138.00", "138.00", dt.date(2026, 3, 5)) == (item.voucher.debit, item.voucher.credit, item.voucher.date)
    assert "employee p-17" == item.voucher.lines[-1].payee


async def test_the_preview_of_a_draft_says_of_each_claim_what_is_wrong(desk: Desk) -> None:
    await desk.claim("c-1")
    await desk.claim("c-2", lines=[{"expense_type": "ferry", "amount": "10.00", "date": "2026-03-01"}])
    await desk.claim("c-3", lines=[{"expense_type": "hotel", "amount": "10.00", "date": "2026-03-01"}])
    shown = await desk.service.mappings.preview("hlf", "books", mapping=MAPPING, ids=["c-3", "c-2", "c-1", "c-0"])
    assert [("c-3", "expense_type_excluded"), ("c-2", "mapping_gap"), ("c-1", None), ("c-0", "reimbursement_not_found")] == [
        (item.claim, item.problem and item.problem.code) for item in shown.items
    ]  # fmt: skip
    assert (None, [("ferry", ["c-2"])]) == (shown.version, [(gap.name, gap.claims) for gap in shown.gaps])
    with pytest.raises(NotFoundError):
        await desk.service.mappings.get("hlf", "books")  # nothing was saved


async def test_the_preview_shows_the_newest_approved_claims_and_no_others(desk: Desk) -> None:
    await desk.put()
    await desk.connect("nbf")
    await desk.claim("theirs", org="nbf")
    await desk.claim("draft", status="draft")
    for n in range(7):
        await desk.claim(f"c-{n}")
    shown = await desk.service.mappings.preview("hlf", "books")
    assert 5 == len(shown.items)
    assert all(item.claim.startswith("c-") for item in shown.items)
    (none,) = (await desk.service.mappings.preview("hlf", "books", ids=["theirs"])).items
    assert none.problem is not None
    assert "reimbursement_not_found" == none.problem.code


async def test_the_preview_knows_of_closed_periods(desk: Desk) -> None:
    await desk.put()
    march = ChartPeriod(first=dt.date(2026, 3, 1), last=dt.date(2026, 3, 31), is_open=False)
    april = ChartPeriod(first=dt.date(2026, 4, 1), last=dt.date(2026, 4, 30), is_open=True)
    desk.books.given = chart(periods=[march, april])
    await desk.reader.round()
    await desk.claim("c-1", approved_on="2026-03-05")
    (held,) = (await desk.service.mappings.preview("hlf", "books")).items
    later = {**MAPPING, "closed_period": "next_open"}
    (moved,) = (await desk.service.mappings.preview("hlf", "books", mapping=later)).items
    assert held.problem is not None
    assert moved.voucher is not None
    assert ("period_closed", dt.date(2026, 4, 1)) == (held.problem.code, moved.voucher.date)


async def test_a_deleted_integration_leaves_no_mapping_behind(desk: Desk) -> None:
    await desk.put()
    await desk.reader.round()
    integration = await desk.integration()
    await desk.service.integrations.disable("hlf", "books")
    async with desk.store.database.write() as conn:
        await conn.execute(sa.text("DELETE FROM integration WHERE id = :id"), {"id": integration.id})
    assert await desk.store.mappings.newest(integration.id) is None
    assert await desk.store.charts.get(integration.id) is None
