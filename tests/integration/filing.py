"""A plugin that writes vouchers to files and reads reports of them, and what is needed to send with it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from samband import (
    Batch,
    CredentialsModel,
    ExportFile,
    Item,
    Manifest,
    Receipt,
    RejectedError,
    RemoteError,
    SettingsModel,
    Sought,
    Stream,
    Token,
    Voucher,
    VoucherLine,
    hookimpl,
    spreadsheet,
)
from samband.adapters.adapter import Connection
from samband.adapters.registry import Registry
from samband.http.egress import EgressPolicy
from samband.store import Lease, Store
from samband.store.models import ExportItem, Reimbursement
from samband.twin import Doors, Twin

ORG, PLUGIN, STREAM = "nbf", "books", "vouchers"
COLUMNS = (
    spreadsheet.Column(name="number", heading="Bilagsnr", kind="code", width=8),
    spreadsheet.Column(name="account", heading="Konto", kind="code", width=4),
    spreadsheet.Column(name="amount", heading="Beløp", kind="amount"),
    spreadsheet.Column(name="text", heading="Tekst"),
)


class Settings(SettingsModel):
    pass


class Credentials(CredentialsModel):
    pass


class Books:
    """Writes a line for each posting; a voucher whose text is ``unwritable`` cannot be written."""

    manifest = Manifest(
        name=PLUGIN, title="Books", version="1.0", settings=Settings, credentials=Credentials,
        streams=(Stream(name=STREAM, kind="reimbursement", title="Vouchers", direction="push"),),
        capabilities=frozenset({"export", "find_exported", "render", "acknowledge"}),
        field_classes=frozenset({"plain", "personal"}),
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls_out = False
        self.gives: Any = None
        self.rendered = 0

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def export(self, ctx: Any, batch: Batch) -> Any:
        raise AssertionError("what goes out by file is not exported over the API")
        yield

    @hookimpl
    async def find_exported(self, ctx: Any, keys: Sequence[str], sought: Sequence[Sought]) -> Any:
        raise AssertionError("what went out by file is not looked for over the API")
        yield

    @hookimpl
    async def render(self, ctx: Any, batch: Batch, profile: str) -> Any:
        self.rendered += 1
        if self.calls_out:
            await ctx.http.request("GET", "https://books.example/")
        if self.gives is not None:
            return self.gives
        if any(_voucher(item).text == "unwritable" for item in batch.items):
            raise RejectedError("It cannot be written.", code="unwritable", field="text")
        rows = [
            {
                "number": f"{_voucher(item).number:08d}",
                "account": line.account,
                "amount": line.amount,
                "text": line.text,
            }
            for item in batch.items
            for line in _voucher(item).lines
        ]
        name = f"gl-{_voucher(batch.items[0]).number}-{batch.id[:8]}"
        if profile == "human":
            content = spreadsheet.write_human(COLUMNS, rows)
            return ExportFile(name=f"{name}.csv", media_type=spreadsheet.MEDIA_TYPE, content=content, rows=len(rows))
        lines = [f"{row['number']};{row['account']};{row['amount']};{row['text']}\n" for row in rows]
        return ExportFile(name=f"{name}.gl.csv", media_type="text/csv", content="".join(lines).encode(), rows=len(rows))

    @hookimpl
    async def acknowledge(self, ctx: Any, name: str, content: bytes) -> list[Receipt]:
        """Reads lines such as ``key;posted;1041``, ``key;rejected;Unknown account`` and ``4711@file.csv;posted;1041``."""
        told = []
        for line in content.decode().splitlines():
            name, state, said = [*line.split(";", 2), "", ""][:3]
            key, _, file = name.partition("@")
            evidence = {"file": file} if file else {}
            if state == "posted":
                told.append(Receipt(key=key, state="posted", reference=said, evidence=evidence))
            elif state == "rejected":
                told.append(Receipt(key=key, state="rejected", code="refused", message=said, evidence=evidence))
            elif state == "accepted":
                told.append(Receipt(key=key, state="accepted", evidence=evidence))
            else:
                raise RemoteError("This is no report of the books.", code="no_report")
        return told


def _voucher(item: Item) -> Voucher:
    assert item.voucher is not None
    return item.voucher


def voucher(number: int, text: str = "Reise", amount: str = "1234.50") -> Voucher:
    """Gives a voucher of two lines; its key is made of the number."""
    key, value = f"{number:032x}", Decimal(amount)
    lines = [
        VoucherLine(n=1, key=f"{key}-1", account="7140", amount=value, text=text),
        VoucherLine(n=2, key=f"{key}-2", account="0154", amount=-value, text=text),
    ]
    return Voucher(
        key=key, number=number, type="RE", date=dt.date(2026, 3, 2), currency="NOK", text=text, lines=lines,
        claim=f"c-{number}", mapping_version=1,
    )  # fmt: skip


def item(number: int, text: str = "Reise", amount: str = "1234.50") -> Item:
    return Item(key=f"{number:032x}", stream=STREAM, values={}, voucher=voucher(number, text, amount))


def batch(*items: Item) -> Batch:
    return Batch(id="of-a-run", items=items)


def sought(number: int, state: Any = "unknown", reference: str | None = None) -> Sought:
    return Sought(key=f"{number:032x}", state=state, route="file", number=number, reference=reference)


class Desk:
    """A store with one integration of the plugin, a run that a worker holds, and a twin."""

    def __init__(self, store: Store, root: Path | None) -> None:
        self.store = store
        self.books = Books()
        self.registry = Registry()
        self.registry.add(self.books, name=PLUGIN, distribution="samband-books", version="1.0")
        self.adapter = self.registry.adapter(PLUGIN)
        self.doors = Doors(drop_root=root, egress=EgressPolicy(allow_private=["127.0.0.1"]))
        self.root = root
        self.twin = Twin(store, self.adapter, self.doors)
        self.integration: Any = None
        self.connection: Any = None

    @property
    def folder(self) -> Path:
        assert self.root is not None
        return self.root / ORG / PLUGIN

    async def open(self, drop: dict[str, Any] | None = None, secret: bytes | None = None) -> None:
        catalog = self.store.catalog
        await catalog.add_organization(ORG, "NBF")
        self.integration = await catalog.add_integration(ORG, PLUGIN, "Books", {}, catalog.pending({}, {}, None))
        self.connection = Connection(
            organization_id=ORG, integration_id=self.integration.id, revision=1, settings={}, credentials={}
        )
        if drop is not None:
            await self.set_drop(drop, secret)

    async def set_drop(self, drop: dict[str, Any], secret: bytes | None = None) -> None:
        from samband.twin import parse_point

        settings = parse_point(drop).model_dump(mode="json")
        await self.store.drops.put(
            self.integration, settings, secret=secret, hint="", keep_secret=False, if_revision=None
        )

    async def lease(self, owner: str = "one") -> Lease:
        """Orders an export run and takes it."""
        async with self.store.database.write() as conn:
            run = await self.store.runs.order_in(
                conn, organization_id=ORG, integration_id=self.integration.id, plugin=PLUGIN, plugin_version="1.0",
                operation="export", streams=[STREAM], full=False, reason="test", requested_by="",
            )  # fmt: skip
        assert run is not None
        lease = await self.store.runs.claim(run.id, owner, 30.0)
        assert lease is not None
        return lease

    async def send(self, lease: Lease, *items: Item, route: str = "file") -> dict[int, Receipt]:
        """Sends, and gives voucher number → receipt."""
        found = [r async for r in self.twin.send(self.connection, batch(*items), lease=lease, route=route)]
        return {int(receipt.key, 16): receipt for receipt in found}

    async def find(self, *asked: Sought) -> dict[int, Receipt]:
        return {int(receipt.key, 16): receipt async for receipt in self.twin.find(self.connection, asked)}

    async def add_items(self, *numbers: int, state: str = "accepted", **values: Any) -> None:
        """Writes items with their claims into the ledger, as an order would have."""
        from samband.rules.posting import to_row

        now = dt.datetime.now(dt.UTC)
        async with self.store.database.write() as conn:
            for number in numbers:
                made = voucher(number)
                body = {"payee": {"id": "p"}, "currency": "NOK", "lines": []}
                claim = Reimbursement(
                    organization_id=ORG, id=made.claim, status="approved", body=body, digest="", created_at=now,
                    updated_at=now,
                )  # fmt: skip
                row = ExportItem(
                    key=made.key, organization_id=ORG, integration_id=self.integration.id, reimbursement_id=made.claim,
                    version=1, number=1, stream=STREAM, state=state, created_at=now,
                    **{"voucher_number": number, "voucher": to_row(made), "route": "file", "attempts": 1, **values},
                )  # fmt: skip
                for each in (claim, row):
                    await conn.execute(sa.insert(each.__table__).values(**each.model_dump()))

    async def states(self) -> dict[int, str]:
        async with self.store.database.read() as conn:
            rows = await conn.execute(sa.text("SELECT key, state FROM export_item"))
            return {int(row.key, 16): row.state for row in rows}

    async def close(self) -> None:
        await self.registry.close()
