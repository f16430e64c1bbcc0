"""Claims played through from the platform to the books over the public API, and compared with what the books say themselves.

Connect, map, tell claims, export them, order again, let the other side post, reconcile.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time
from typing import Any, Final

from samband.cli.output import note
from samband.cli.rehearsal import Rehearsal

__all__ = ["BookRehearsal"]

_CLAIMS: Final = 25
_POSTED_WITHIN_S: Final = 60.0


class BookRehearsal(Rehearsal):
    """Plays a plugin through that claims are exported to; its simulator brings a mapping that fits its accounts."""

    async def play(self) -> None:
        """Goes through all of it; what does not come out right is in ``findings``."""
        await self._connect()
        title, mapping = self._plugin["title"], self._simulator.address["mapping"]
        await self._host.put(f"{self._path}/mapping", {"mapping": mapping})
        today = dt.datetime.now(dt.UTC).date()
        claims = _claims(sorted(mapping["expense_types"]), today)
        told = await self._host.put(f"{self._org}/reimbursements", {"items": claims})
        self._find("claims taken in", _CLAIMS, sum(each["outcome"] == "created" for each in told["items"]))
        note(f"{title}: {_CLAIMS} approved claims are exported.")
        ids = [claim["id"] for claim in claims]
        first = await self._order(ids)
        self._find("claims sent", _CLAIMS, len(first["reserved"]))
        run: dict[str, Any] = await self._host.follow(first["run"], lambda run: None)
        self.runs.append(run)
        self._find("the export succeeded", "succeeded", run["state"])
        again = await self._order(ids)
        self._find("claims sent by ordering the same again", 0, len(again["reserved"]))
        await self._simulator.work()
        self._find("claims booked", _CLAIMS, await self._posted(run["id"]))
        asked = {"period": f"{today:%Y-%m}", "type": self._plugin["name"]}
        books = await self._host.get(f"{self._org}/exports/reconciliation", **asked)
        self._find("the other side's books were read", True, books["complete"])
        self._find("difference that nothing explains", "0.00", books["unexplained"])
        note(f"{title}: every claim is booked once, and the books say so themselves.")

    async def _order(self, ids: list[str]) -> dict[str, Any]:
        path = f"{self._org}/reimbursements/export"
        order: dict[str, Any] = await self._host.post(path, {"ids": ids, "type": self._plugin["name"]})
        return order

    async def _posted(self, run_id: str) -> int:
        deadline = time.monotonic() + _POSTED_WITHIN_S
        while True:
            items = await self._host.items(f"{self._org}/exports", limit=1_000, run=run_id, state="posted")
            if len(items) >= _CLAIMS or time.monotonic() > deadline:
                return len(items)
            await asyncio.sleep(0.2)


def _claims(expense_types: list[str], today: dt.date) -> list[dict[str, Any]]:
    """Gives approved claims of this month under ids that no earlier demonstration has used."""
    day, mark = today.isoformat(), secrets.token_hex(4)
    return [
        {
            "id": f"demo-{mark}-{n:02d}", "payee": {"id": f"peer-mentor-{n % 7}"}, "currency": "NOK", "status": "approved",
            "approved_by": "coordinator", "approved_on": day,
            "lines": [{"expense_type": expense_types[n % len(expense_types)], "amount": f"{100 + n}.50", "date": day}],
        }
        for n in range(_CLAIMS)
    ]  # fmt: skip
