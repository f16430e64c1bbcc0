"""One organisation's books under attack: real workers, a real queue and database, and Xledger's stand-in, with faults by seed.

A schedule is drawn from its seed alone. The verdict is read from the stand-in's books, which take anything twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio

from samband.errors import AlreadyRunningError, SambandError
from samband.service import Service

from .conftest import Hosts

ORG, PLUGIN, PERIOD = "nbf", "xledger", "2026-03"
ROUTES = ("graphql", "soap", "file")
PATIENCE_S = 240.0
NOT_REACHABLE = 5
"""A worker's exit code when its database is away at its start."""
LINE_KEY = re.compile(r"\b([0-9a-f]{32})-([0-9]+)\b")
MAPPING = {
    "payee": {"strategy": "liability", "account": "2990"},
    "expense_types": {
        "mileage": {
            "account": "7100",
            "text": "Mileage {date}",
            "allowance": {"rates": "car", "taxable_account": "7130"},
        },
        "toll": {"account": "7140"},
    },
    "rates": {"car": [{"valid_from": "2026-01-01", "rate": "5.30", "tax_free": "3.50"}]},
}
SETTINGS = {
    "SAMBAND_SETTLE_AFTER_S": "1",
    "SAMBAND_FOLLOW_UP_EVERY_S": "0.3",
    "SAMBAND_FOLLOW_UP_STEPS_S": "[0.5, 1, 2, 4]",
    "SAMBAND_HOOK_TIMEOUT_S": "20",
}


def claims_of(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """Gives approved claims of one to three lines each, all in one month."""
    claims = []
    for n in range(number):
        lines: list[dict[str, Any]] = []
        for _ in range(rng.randrange(1, 4)):
            day = f"{PERIOD}-{rng.randrange(1, 29):02d}"
            if rng.random() < 0.5:
                cents = rng.randrange(1, 500_000)
                lines.append({"expense_type": "toll", "amount": f"{cents // 100}.{cents % 100:02d}", "date": day})
            else:
                kilometres = Decimal(rng.randrange(1, 4000)) / 10
                amount = (kilometres * Decimal("5.30")).quantize(Decimal("0.01"), "ROUND_HALF_UP")
                lines.append({
                    "expense_type": "mileage", "amount": str(amount), "date": day, "kilometres": str(kilometres),
                    "rate": "5.30",
                })  # fmt: skip
        claims.append({
            "id": f"c-{n:05d}", "payee": {"id": f"p-{n % 97}"}, "currency": "NOK", "status": "approved",
            "approved_by": "coordinator", "approved_on": f"{PERIOD}-{rng.randrange(1, 29):02d}", "lines": lines,
        })  # fmt: skip
    return claims


def total_of(claim: dict[str, Any]) -> Decimal:
    return sum((Decimal(line["amount"]) for line in claim["lines"]), Decimal(0))


@dataclass
class Xledger:
    """A stand-in in a process of its own."""

    process: subprocess.Popen[str]
    line: dict[str, Any]

    def control(self, door: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.line['control_url']}/{door}", data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def xledger(drop_folder: Path) -> Any:
    """Starts the stand-in, whose import job runs four times a second and posts a number twice when it comes twice."""
    command = [
        sys.executable, "-m", "samband_xledger.simulator", "--die-with-parent", "--job-every-s", "0.25",
        "--drop-folder", str(drop_folder), "--duplicate-numbers", "post",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield Xledger(process, json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@dataclass
class Attack:
    """What happens to one order, and when."""

    seed: int
    route: str
    deeds: list[tuple[float, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


WIRE = {
    "graphql": {
        "commit then drop": {"fault": "drop", "operation": "addGLImportItems", "commit": True},
        "drop before": {"fault": "drop", "operation": "addGLImportItems"},
        "cut in the answer": {"fault": "truncate", "operation": "addGLImportItems"},
        "their time-out after the commit": {"fault": "timeout", "operation": "addGLImportItems", "commit": True},
        "busy on HTTP 200": {"fault": "limit", "limit": "burst", "reset_s": 1},
        "nothing but null": {"fault": "data_null", "operation": "glImportItems"},
        "look-up dropped": {"fault": "drop", "operation": "journalEntries"},
    },
    "soap": {
        "commit then drop": {"fault": "drop", "operation": "ReceiveFile", "commit": True},
        "drop before": {"fault": "drop", "operation": "ReceiveFile"},
        "log-on key expired": {"fault": "expired_key", "operation": "ReceiveFile"},
        "page of HTML after the commit": {"fault": "html_503", "operation": "ReceiveFile", "commit": True},
        "nothing after the commit": {"fault": "empty_200", "operation": "ReceiveFile", "commit": True},
    },
    "file": {"report lost": {"fault": "drop", "operation": "drop", "commit": True}},
}
DEEDS = (
    "kill",
    "kill",
    "forget the queue",
    "restart the database",
    "order again",
    "five orders at once",
    "second worker",
)


def attack_of(seed: int, route: str) -> Attack:
    """Draws what will happen within the first seconds: between three and seven deeds."""
    rng = random.Random(f"{seed}/{route}")
    attack = Attack(seed, route)
    for _ in range(rng.randrange(3, 8)):
        pool = list(WIRE[route]) * 2 + list(DEEDS)
        attack.deeds.append((rng.uniform(0.0, 4.0), rng.choice(pool)))
    attack.deeds.sort()
    return attack


@dataclass
class Battle:
    """One attack on one world."""

    hosts: Hosts
    service: Service
    there: Xledger
    queue_url: str
    attack: Attack
    claims: list[dict[str, Any]]
    drops: Path

    async def prepare(self) -> None:
        settings = {
            **self.there.line["settings"], "routes": [self.attack.route], "soap_settle_after_h": 3 / 3600,
            "monthly_requests": None,
        }  # fmt: skip
        await self.service.organizations.create(ORG, "NBF")
        await self.service.integrations.create(
            ORG, PLUGIN, settings=settings, credentials=self.there.line["credentials"]
        )
        check = await self.service.integrations.test(ORG, PLUGIN)
        assert check.ok, check
        await self.service.integrations.enable(ORG, PLUGIN)
        await self.service.mappings.put(ORG, PLUGIN, MAPPING, effective_from=dt.date(2026, 1, 1))
        if self.attack.route == "file":
            await self.service.files.put_drop(ORG, PLUGIN, {"kind": "folder"})
        for start in range(0, len(self.claims), 500):
            told = await self.service.reimbursements.put_many(ORG, self.claims[start : start + 500])
            assert {"created"} == {each.outcome for each in told.items}

    async def fight(self) -> None:
        """Orders everything while the deeds happen, then waits until all is settled, ordering again what is free."""
        self.hosts.start_worker()
        began = time.monotonic()
        await self._order()
        for at, deed in self.attack.deeds:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            await self._do(deed)
            self.attack.told.append(deed)
        self.there.control("faults", {"clear": True})
        deadline = time.monotonic() + PATIENCE_S
        while (open_ := await self._open()) and time.monotonic() < deadline:
            if open_.get("free"):
                await self._order()
            self._mind_the_workers()
            await asyncio.sleep(0.25)
        assert {} == await self._open(), (self.attack, await self._why())

    async def _why(self) -> list[Any]:
        """Tells of some items that are open still, and what the last runs came to."""
        items = [item for item in await self.items() if item.state not in ("posted", "rejected")][:3]
        runs = (await self.service.runs.page(ORG, limit=3)).items
        return [(i.state, i.code, i.message, i.route) for i in items] + [(r.state, r.reason, r.error) for r in runs]

    async def _do(self, deed: str) -> None:
        if deed in WIRE[self.attack.route]:
            self.there.control("faults", WIRE[self.attack.route][deed])
            return
        await {
            "kill": self._kill, "forget the queue": self._forget, "restart the database": self._restart,
            "order again": self._order, "five orders at once": self._five, "second worker": self._second,
        }[deed]()  # fmt: skip

    def _mind_the_workers(self) -> None:
        """Starts a worker again that has ended for want of its database, as whatever looks after a service does."""
        ended = [worker.poll() for worker in self.hosts.processes]
        if None not in ended:
            assert ended[-1] == NOT_REACHABLE, (ended, self.hosts.log.read_text(encoding="utf-8")[-2000:])
            self.hosts.start_worker()

    async def _kill(self) -> None:
        for worker in self.hosts.processes:
            self.hosts.kill(worker)
        self.hosts.start_worker()

    async def _second(self) -> None:
        self.hosts.start_worker()

    async def _forget(self) -> None:
        client = redis.asyncio.Redis.from_url(self.queue_url)
        try:
            await client.flushall()
        finally:
            await client.aclose()

    async def _restart(self) -> None:
        """Ends every session of the database at once, as its restart does; SQLite has nothing that could be restarted."""
        if self.hosts.database_url.startswith("sqlite"):
            return
        connection = await asyncpg.connect(self.hosts.database_url)
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finally:
            await connection.close()

    async def _five(self) -> None:
        await asyncio.gather(*(self._order() for _ in range(5)))

    async def _order(self) -> None:
        # Refusals and a database that is away are what is to be expected here; what comes of it is judged by the books.
        with contextlib.suppress(AlreadyRunningError, SambandError):
            await self.service.exports.order(ORG, requested_by="test")

    async def _open(self) -> dict[str, int]:
        """Counts what is not settled: items by state, and claims that nobody has taken."""
        states: Counter[str] = Counter()
        try:
            for item in await self.items():
                states[item.state] += 1
        except SambandError:
            return {"database away": 1}
        free = len(self.claims) - sum(states[s] for s in ("reserved", "sent", "unknown", "accepted", "posted"))
        found = {state: states[state] for state in ("reserved", "sent", "unknown", "accepted") if states[state]}
        return found | ({"free": free} if free else {})

    async def items(self) -> list[Any]:
        found: list[Any] = []
        after = None
        while True:
            page = await self.service.exports.items(ORG, after=after, limit=500)
            found += page.items
            after = page.next
            if after is None:
                return found

    async def _let_them_finish(self) -> None:
        """Lets the stand-in take in and post what it was given: a file in its folder is accepted, and in no book yet."""
        while self.there.control("job/run", {})["posted"]:
            pass

    async def judge(self) -> None:
        """Demands that the books hold every claim exactly once, to the øre, and that the reconciliation says the same."""
        await self._let_them_finish()
        books = self.there.control("books")
        lines: Counter[str] = Counter()
        owed: dict[str, Decimal] = {}
        for entry in books["entries"]:
            mark = LINE_KEY.search(f"{entry['extIdentifier'] or ''} {entry.get('text') or ''}")
            assert mark is not None, entry
            lines[mark[0]] += 1
            amount = Decimal(str(entry["amount"]))
            if amount < 0:
                owed[mark[1]] = owed.get(mark[1], Decimal(0)) - amount
        assert {} == {key: times for key, times in lines.items() if times > 1}, self.attack
        live = {item.reimbursement: item for item in await self.items() if item.state in ("accepted", "posted")}
        expected = {claim["id"]: total_of(claim) for claim in self.claims}
        assert expected == {id: owed.get(item.key) for id, item in live.items()}, self.attack
        assert {item.key for item in live.values()} == set(owed), self.attack
        told = await self.service.reconciliation.month(ORG, PERIOD, type=PLUGIN)
        assert (True, "0.00") == (told.complete, told.unexplained), self.attack


async def until_true(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def battle(hosts: Hosts, queue_url: str, folder: Path, attack: Attack, number: int) -> AsyncIterator[Battle]:
    """Gives a world that is ready for its attack."""
    root = folder / "drop"
    drops = root / ORG / PLUGIN
    drops.mkdir(parents=True)
    hosts.environment.update(SETTINGS, SAMBAND_DROP_ROOT=str(root))
    service = Service(store=hosts.store, registry=hosts.registry, bell=hosts.service._parts.bell, drop_root=root)
    with xledger(drops) as there:
        rng = random.Random(attack.seed)
        yield Battle(hosts, service, there, queue_url, attack, claims_of(rng, number), drops)
