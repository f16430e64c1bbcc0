"""A plugin with books that take anything, also the same voucher twice, and a host's inner parts around it."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from samband import CredentialsModel, ExportFile, Manifest, Receipt, Route, SettingsModel, Stream, Token, hookimpl
from samband.adapters.registry import Registry
from samband.flow import Flow, FlowSettings
from samband.flow.following import FollowingUp
from samband.service import Service
from samband.store import Store
from samband.store.models import ExportItem, Integration
from samband.twin import Doors
from samband.views.exports import ExportItemView

from .playing import SilentBell

ORG, PLUGIN = "nbf", "books"
_item: sa.Table = ExportItem.__table__

MAPPING: dict[str, Any] = {
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id}"},
    "expense_types": {"toll": {"account": "7140"}, "hotel": {"excluded": True}},
}


class Settings(SettingsModel):
    pass


class Credentials(CredentialsModel):
    pass


@dataclass(frozen=True)
class Sent:
    """Something that has arrived at the books."""

    key: str
    number: int | None
    route: str | None


@dataclass(eq=False)
class Books:
    """What the other side has and does.

    Attributes:
        sent: Everything that has arrived, in order; a key that is there twice is a double booking.
        staged: Key → what is told when it is asked for; what has arrived is accepted unless this says otherwise.
        deed: Called with each item before it arrives; may raise, or say ``lost`` (it does not arrive, and no answer
            comes), ``silent`` (it arrives and no answer comes) or ``refuse``.
        open_routes: In the order they are chosen.
        closed: Routes that raise `RetryableError` before anything is sent.
        asked: How often each key was asked for.
        avoided: What `choose_route` was told each time.
    """

    kind: str = "voucher"
    further: frozenset[str] = frozenset()
    sent: list[Sent] = field(default_factory=list)
    staged: dict[str, Receipt | None] = field(default_factory=dict)
    deed: Callable[[Any], str | None] = lambda item: None
    open_routes: list[str] = field(default_factory=lambda: ["api", "soap"])
    closed: dict[str, Exception] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    avoided: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            name=PLUGIN, title="Books", version="1.0", settings=Settings, credentials=Credentials,
            streams=(Stream(name="vouchers", kind=self.kind, title="Vouchers", direction="push"),),
            capabilities=frozenset({"export", "find_exported"}) | self.further,
            field_classes=frozenset({"plain", "personal"}),
        )  # fmt: skip

    @property
    def arrivals(self) -> Counter[str]:
        return Counter(each.key for each in self.sent)

    def post(self) -> None:
        """Books everything that has arrived."""
        for each in self.sent:
            self.staged[each.key] = Receipt(key=each.key, state="posted", reference=f"T-{each.number}")

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def export(self, ctx: Any, batch: Any) -> AsyncIterator[Receipt]:
        if batch.route in self.closed:
            raise self.closed[batch.route]
        for item in batch.items:
            deed = self.deed(item)
            if deed == "refuse":
                yield Receipt(key=item.key, state="rejected", code="cost_centre", field="lines.0", message="Unknown.")
                continue
            if deed != "lost":
                number = None if item.voucher is None else item.voucher.number
                self.sent.append(Sent(item.key, number, batch.route))
            if deed is None:
                evidence = {"token": f"a-token of {item.key}"}
                yield Receipt(key=item.key, state="accepted", reference=f"V-{item.key[:8]}", evidence=evidence)

    @hookimpl
    async def find_exported(self, ctx: Any, keys: Sequence[str], sought: Sequence[Any]) -> AsyncIterator[Receipt]:
        for each in sought:
            self.asked[each.key] += 1
            if each.key in self.staged:
                found = self.staged[each.key]
                if found is not None:
                    yield found
            elif self.arrivals[each.key]:
                yield Receipt(key=each.key, state="accepted", reference=f"V-{each.key[:8]}")


class RoutedBooks(Books):
    """Books that can be reached by several ways."""

    def __init__(self) -> None:
        super().__init__(further=frozenset({"choose_route"}))

    @hookimpl
    async def choose_route(self, ctx: Any, avoided: Mapping[str, str]) -> Route:
        self.avoided.append(dict(avoided))
        ways = [way for way in self.open_routes if way not in avoided]
        way = ways[0] if ways else self.open_routes[0]
        return Route(name=way, reasons={name: f"{why} (told)" for name, why in avoided.items()})


class FilingBooks(Books):
    """Books that take files as well."""

    def __init__(self) -> None:
        super().__init__(further=frozenset({"render"}))

    @hookimpl
    async def render(self, ctx: Any, batch: Any, profile: str) -> ExportFile:
        rows = [f"{item.voucher.number};{line.amount}" for item in batch.items for line in item.voucher.lines]
        name = f"GL-{batch.items[0].voucher.number}-{len(rows)}.csv"
        return ExportFile(name=name, media_type="text/csv", content="\n".join(rows).encode(), rows=len(rows))


@dataclass
class Desk:
    """A host's service, and workers that carry runs out when they are told to."""

    store: Store
    books: Books
    registry: Registry
    bell: SilentBell
    service: Service

    @classmethod
    def around(cls, store: Store, books: Books) -> Desk:
        registry, bell = Registry(), SilentBell()
        registry.add(books, name=PLUGIN, distribution="samband-books", version="1.0")
        return cls(store, books, registry, bell, Service(store=store, registry=registry, bell=bell))

    async def connect(self, *claims: str, mapping: Mapping[str, Any] | None = MAPPING) -> None:
        await self.service.organizations.create(ORG, "NBF")
        await self.service.integrations.create(ORG, PLUGIN, settings={}, credentials={})
        assert (await self.service.integrations.test(ORG, PLUGIN)).ok
        await self.service.integrations.enable(ORG, PLUGIN)
        if mapping is not None:
            await self.service.mappings.put(ORG, PLUGIN, mapping=mapping)
        for id in claims:
            await self.put(id)

    async def put(self, id: str, **changes: Any) -> None:
        await self.service.reimbursements.put(ORG, id, claim(**changes))

    def worker(self, *, settle_after_s: float = 0.0, steps_s: Sequence[float] = (0.0001,), **settings: Any) -> Flow:
        given = {"owner": "one", "lease_s": 30.0, "heartbeat_s": 5.0, **settings}
        patient = FlowSettings(settle_after_s=settle_after_s, follow_up_steps_s=steps_s, **given)
        return Flow(store=self.store, registry=self.registry, settings=patient, doors=Doors())

    async def work(self, run: Any, **settings: Any) -> str:
        """Carries a run out, at most until it waits, and gives the state it comes into."""
        await self.worker(**settings).execute(run.id)
        return (await self.service.runs.get(ORG, run.id)).state

    def following(self, *, steps_s: Sequence[float] = (0.0001,), **settings: Any) -> FollowingUp:
        return FollowingUp(store=self.store, registry=self.registry, bell=self.bell, steps_s=steps_s, **settings)

    async def follow_up(self) -> None:
        """Does one round of the duty and carries out what it ordered."""
        before = len(self.bell.rung)
        await self.following().round()
        for run_id in self.bell.rung[before:]:
            await self.worker().execute(run_id)

    async def items(self) -> dict[str, ExportItemView]:
        page = await self.service.exports.items(ORG, limit=20_000)
        return {f"{item.reimbursement}/{item.number}": item for item in page.items}

    async def states(self) -> dict[str, str]:
        return {name: item.state for name, item in (await self.items()).items()}

    async def integration(self) -> Integration:
        return await self.store.catalog.integration(ORG, PLUGIN)

    async def change(self, key: str, **values: Any) -> None:
        async with self.store.database.write() as conn:
            await conn.execute(sa.update(_item).where(_item.c.key == key).values(**values))


def claim(amount: str = "100.50", *, type: str = "toll", status: str = "approved", **changes: Any) -> dict[str, Any]:
    return {
        "payee": {"id": "p-17"}, "currency": "NOK", "status": status, "approved_on": "2026-03-02",
        "lines": [{"expense_type": type, "amount": amount, "date": "2026-03-01"}],
    } | changes  # fmt: skip


def ago(**given: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(**given)
