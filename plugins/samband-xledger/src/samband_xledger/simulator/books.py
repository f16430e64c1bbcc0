"""The books: journal headers, their entries and transactions. What is posted stays."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from .tables import Row
from .world import World

POSTED = {"dbId": 5, "code": "5", "name": "Posted", "dbSubId": 5}
_CARRIED = (
    "account",
    "currency",
    "project",
    "xgl",
    "glObject1",
    "glObject2",
    "glObject3",
    "glObject4",
    "glObject5",
    "taxRule",
    "text",
    "amount",
    "invoiceAmount",
    "taxAmount",
    "invoiceDate",
    "invoiceNumber",
    "dueDate",
    "exchangeRate",
    "extIdentifier",
    "postedDate",
    "quantity",
    "yourReference",
    "numberPeriod",
    "payMethod",
    "payTerms",
    "company",
    "transactionSource",
)
_SHOWN = ("text", "amount", "invoiceAmount", "taxAmount", "quantity", "currency", "taxRule", "xgl", "company")


def post(world: World, rows: list[Row], number: int) -> Row:
    """Posts the lines of one voucher and returns its header."""
    first = rows[0]
    day = first["postedDate"]
    period = world.period_of(day)
    now = world.clock.local()
    header = world.put(
        "journalHeaders", transactionNumber=number, text=first.get("text"), postedDate=day, importedAt=now,
        registeredAt=now, fiscalYear=int(day[:4]), period=period, ownerDbId=first["ownerDbId"],
        transactionSource=first.get("transactionSource"), jobLevel=first.get("jobLevel"), transProcessLevel=POSTED,
        trProcessLevel=POSTED, archive=False, _reg=first.get("trRegNumber"), _door=first["_door"],
    )  # fmt: skip
    world.log("journalHeaders", header["dbId"], "ADDED")
    for position, row in enumerate(rows, start=1):
        _entry(world, header, row, position)
    return header


def _entry(world: World, header: Row, row: Row, position: int) -> None:
    owner, period = header["ownerDbId"], header["period"]
    carried = {name: row[name] for name in _CARRIED if row.get(name) is not None}
    subledger = row.get("subledger")
    entry = world.put(
        "journalEntries", **carried, ownerDbId=owner, transactionNumber=header["transactionNumber"],
        transactionHeader=header, transactonHeaderDbId=header["dbId"], period=period, fiscalYear=header["fiscalYear"],
        fiscalPeriod=None if period is None else period["fiscalPeriod"], sign="-" if row["amount"] < 0 else "+",
        subledgerDbId=None if subledger is None else subledger.get("dbId"), _position=position,
    )  # fmt: skip
    transaction = world.put(
        "transactions", **{name: carried[name] for name in _SHOWN if name in carried}, ownerDbId=owner, header=header,
        accountDbId=row["account"]["dbId"], positionNumber=position, period=period, _header=header["dbId"],
        monthNumber=None if period is None else period["monthNumber"], _entry=entry["dbId"],
    )  # fmt: skip
    world.log("transactions", transaction["dbId"], "ADDED")


def by_hand(world: World, owner: int, number: int, day: str, amount: Decimal, text: str) -> Row:
    """Posts a voucher of two lines as a person would, past the staging table; returns its header."""
    accounts = world["accounts"].having("code", ["7790", "1920"])
    rows: list[Row] = [
        {
            "ownerDbId": owner,
            "postedDate": day,
            "account": account,
            "amount": amount * sign,
            "invoiceAmount": amount * sign,
            "text": text,
            "transactionSource": world["transactionSources"].having("code", ["GL"])[0],
            "currency": world["currencies"].having("code", ["NOK"])[0],
            "_door": "person",
        }
        for account, sign in zip(accounts, (-1, 1), strict=True)
    ]
    return post(world, rows, number)


def shown(world: World) -> Iterator[dict[str, Any]]:
    """Yields every posted line as the control door shows it."""
    for entry in world["journalEntries"]:
        header = entry["transactionHeader"]
        yield {
            "dbId": str(entry["dbId"]),
            "header": str(header["dbId"]),
            "extIdentifier": entry.get("extIdentifier"),
            "voucher": header["_reg"],
            "transactionNumber": header["transactionNumber"],
            "line": entry["_position"],
            "door": header["_door"],
            "date": entry["postedDate"],
            "account": entry["account"]["code"],
            "amount": f"{entry['amount']:.2f}",
            "currency": (entry.get("currency") or {}).get("code"),
            "text": entry.get("text"),
            "invoiceNumber": entry.get("invoiceNumber"),
            "entity": world["entities"].rows[header["ownerDbId"]]["code"],
        }
