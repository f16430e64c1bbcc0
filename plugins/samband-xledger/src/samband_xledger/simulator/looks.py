"""What the control door shows: books, staging table, counters, state and the log of requests."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from . import books as ledger
from . import uploads
from .state import SimulatorState
from .world import World

Order = dict[str, Any]
_FILES = frozenset({"soap", "drop"})


def books(state: SimulatorState, world: World, order: Order) -> Order:
    """Returns every posted line, and what must never be: keys posted more than once, vouchers that do not balance.

    ``door`` narrows it to what came in one way; ``summary`` leaves the lines out.
    """
    door = order.get("door")
    lines = [line for line in ledger.shown(world) if door is None or line["door"] == door]
    keys = Counter(line["extIdentifier"] for line in lines if line["extIdentifier"])
    texts = Counter((line["voucher"], line["text"]) for line in lines if line["door"] in _FILES)
    vouchers: dict[tuple[str, int], set[str]] = defaultdict(set)
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        sums[line["header"]] += Decimal(line["amount"])
        if line["voucher"] is not None:
            vouchers[line["entity"], line["voucher"]].add(line["header"])
    found: Order = {
        "lines": len(lines),
        "vouchers": len(sums),
        "posted_twice": sorted(key for key, times in keys.items() if times > 1),
        "vouchers_posted_twice": sorted(number for (_, number), headers in vouchers.items() if len(headers) > 1),
        "texts_posted_twice": sorted(f"{number} {text}" for (number, text), times in texts.items() if times > 1),
        "received_twice": sorted(key for key, times in world.received.items() if times > 1),
        "unbalanced": sorted(header for header, total in sums.items() if total != 0),
    }
    if not order.get("summary"):
        found["entries"] = lines
    return found


def staging(state: SimulatorState, world: World, order: Order) -> Order:
    """Returns the staged lines with their errors, and the files that came in."""
    problems: dict[int, list[str]] = defaultdict(list)
    for problem in world["glImportItemErrors"]:
        problems[problem["transactionDbId"]].append(problem["message"])
    return {
        "items": [
            {
                "dbId": str(row["dbId"]),
                "extIdentifier": row.get("extIdentifier"),
                "voucher": row.get("trRegNumber"),
                "account": (row.get("account") or {}).get("code"),
                "amount": None if row.get("amount") is None else f"{row['amount']:.2f}",
                "text": row.get("text"),
                "door": row["_door"],
                "errors": problems.get(row["dbId"], []),
            }
            for row in world["glImportItems"]
            if "_header" not in row
        ],
        "files": [uploads.shown(upload) for upload in world.uploads],
    }


def counters(state: SimulatorState, world: World, order: Order) -> Order:
    """Returns how often each operation was asked for, its nodes, what was refused, and the use per month."""
    return {
        "requests": dict(state.counters),
        "requests_total": sum(state.counters.values()),
        "nodes": dict(state.nodes),
        "refused": {
            code: sum(meter.refused.get(code, 0) for meter in state.meters.values())
            for code in sorted({code for meter in state.meters.values() for code in meter.refused})
        },
        "months": {
            token.name: {month: asdict(usage) for month, usage in token.months.items()}
            for token in world.tokens.values()
        },
        "job_runs": world.job_runs,
    }


def shown_state(state: SimulatorState, world: World, order: Order) -> Order:
    """Returns counts, the clock, what is switched on, and the simulator's own mistakes."""
    return {
        "environment": world.name,
        "now": state.clock.now().isoformat(),
        "local": state.clock.local(),
        "counts": {name: len(table) for name, table in world.tables.items()},
        "switches": asdict(state.switches),
        "limits": asdict(state.limits),
        "faults": [rule.as_json() for rule in state.faults.rules],
        "internal_errors": state.internal_errors,
    }


def log(state: SimulatorState, world: World, order: Order) -> Order:
    """Returns the last requests seen."""
    entries = [asdict(seen) for seen in state.log]
    return {"requests": entries[-int(order.get("last", len(entries))) :]}
