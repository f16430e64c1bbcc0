"""Vouchers to Xledger over GraphQL, by a real worker and beside it by a bare loop of the same calls; all of it on loopback.

``python tests/benchmarks/export_vouchers.py [--vouchers 10000] [--postgres] [--patience 900]``

Each side gets a simulator of its own, in a process of its own, whose import job runs once a second. Each is measured twice:
with the plugin's own limits (3.5 requests a second), and with the limits lifted in ``plugins.toml``. The first tells what
a real export takes; only the second tells what samband itself costs. The bare loop has its vouchers ready, sends one
request after the other, keeps nothing, and asks what became of them as soon as the last one is accepted. samband's clock
starts with the order, so it also selects, maps, numbers and reserves; it first asks about a voucher 15 seconds after that
was accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from pull import postgres

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
ORG, PLUGIN, DAY = "bench", "xledger", "2026-03-02"
MAPPING = {
    "payee": {"strategy": "liability", "account": "2990"},
    "expense_types": {"toll": {"account": "7140"}, "mileage": {"account": "7100"}},
}
WARM_UP, LINE = "warm-up", {"expense_type": "toll", "amount": "100.50", "date": DAY}
LIFTED = 10_000.0
BATCH = 250  # samband's, before each of which it looks whether claims are there already
ASKED_AT_ONCE = 200
PROBED_LINES = 12
POLL_S = 0.5

ADD = """mutation ($inputs: [AddGLImportItemsInput!]!) {
  addGLImportItems(inputs: $inputs) { edges { clientId node { dbId } } }
}"""
PAGE = "pageInfo { hasNextPage }"
CLAIM_FIELDS = "dbId extIdentifier yourReference invoiceNumber amount text account { code }"
LOOK = f"""query ($claims: [String!]!, $first: Int!) {{
  staged: glImportItems(first: $first, filter: {{yourReference_in: $claims}}) {{
    edges {{ node {{ trRegNumber {CLAIM_FIELDS} }} }} {PAGE} }}
  posted: journalEntries(first: $first, filter: {{yourReference_in: $claims}}) {{
    edges {{ node {{ transactionNumber {CLAIM_FIELDS} }} }} {PAGE} }}
}}"""
STAGED_FIELDS = "dbId extIdentifier trRegNumber invoiceNumber amount invoiceAmount text"
POSTED = f"""posted: journalEntries(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{
  dbId extIdentifier invoiceNumber transactionNumber amount invoiceAmount text postedDate
  transactionHeader {{ transactionNumber }} }} }} {PAGE} }}"""
POSTED_ALONE = f"query ($keys: [String!]!, $first: Int!) {{ {POSTED} }}"
FIND = f"""query ($keys: [String!]!, $first: Int!, $numbers: [Int!]!) {{
  staged: glImportItems(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{ {STAGED_FIELDS} }} }} {PAGE} }}
  numbered: glImportItems(first: $first, filter: {{trRegNumber_in: $numbers}}) {{
    edges {{ node {{ {STAGED_FIELDS} }} }} {PAGE} }}
  {POSTED}
}}"""


def claims_of(number: int) -> list[dict[str, Any]]:
    """Gives approved claims of one or two lines, the same ones every time."""
    rng = random.Random(number)
    claims = []
    for n in range(number):
        lines = [
            {"expense_type": kind, "amount": f"{rng.randrange(1, 5000)}.{rng.randrange(100):02d}", "date": DAY}
            for kind in rng.sample(("toll", "mileage"), rng.randrange(1, 3))
        ]
        claims.append({
            "id": f"c-{n:05d}", "payee": {"id": f"p-{n % 997}"}, "currency": "NOK", "status": "approved",
            "approved_by": "coordinator", "approved_on": DAY, "lines": lines,
        })  # fmt: skip
    return claims


def peak_mib(process: str) -> int | None:
    """Gives a process's peak memory (Linux). What a child's ``getrusage`` says counts the memory of its parent too."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return None


# ── the other side ───────────────────────────────────────────────────────────


class Xledger:
    """A simulator in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.line: dict[str, Any] = json.loads(process.stdout.readline())

    def ask(self, door: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.line['control_url']}/{door}", timeout=120) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def used(self) -> Counter[str]:
        """Counts requests so far: in all, and by the operations that they held (one request may hold several)."""
        told = self.ask("counters")
        total = sum(use["requests"] for months in told["months"].values() for use in months.values())
        return Counter({"in all": total, **told["requests"]})

    def check(self, vouchers: int, lines: int) -> None:
        """Demands that the books hold every line once."""
        told = self.ask("books?summary=1")
        if (told["vouchers"], told["lines"]) != (vouchers, lines) or told["posted_twice"] or told["unbalanced"]:
            raise SystemExit(f"The books are wrong: {json.dumps(told)[:2000]}")


@contextlib.contextmanager
def xledger() -> Iterator[Xledger]:
    command = [sys.executable, "-m", "samband_xledger.simulator", "--die-with-parent", "--job-every-s", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield Xledger(process)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


# ── the bare loop ────────────────────────────────────────────────────────────


class Bare:
    """Sends the mutations and look-ups that samband makes when nothing goes wrong, with nothing around them."""

    def __init__(self, session: Any, line: dict[str, Any], rate: float) -> None:
        self._session, self._url = session, line["settings"]["graphql_url"]
        self._headers = {"Authorization": f"token {line['credentials']['api_token']}"}
        self._pause_s, self._next_at = 1 / rate, 0.0

    async def ask(self, document: str, **variables: Any) -> dict[str, Any]:
        await asyncio.sleep(max(0.0, self._next_at - time.monotonic()))
        self._next_at = time.monotonic() + self._pause_s
        body = {"query": document, "variables": variables}
        async with self._session.post(self._url, json=body, headers=self._headers) as answer:
            told = await answer.json()
        if told.get("errors"):
            raise SystemExit(f"The bare loop was refused: {json.dumps(told['errors'])[:500]}")
        return told["data"]  # type: ignore[no-any-return]

    async def send(self, vouchers: Sequence[Any], settings: Any) -> None:
        from samband_xledger.postings import claim_mark, nodes_of, packed

        for start in range(0, len(vouchers), BATCH):
            part = vouchers[start : start + BATCH]
            await self.ask(LOOK, claims=[claim_mark(v.claim) for v in part], first=10_000)
            for parcel in packed(part, {v.key: nodes_of(v, settings) for v in part}):
                inputs = parcel.inputs
                data = await self.ask(ADD, inputs=inputs)
                if len(data["addGLImportItems"]["edges"]) != len(inputs):
                    raise SystemExit("The bare loop got no answer for some lines.")

    async def until_posted(self, vouchers: Sequence[Any]) -> None:
        open_ = list(vouchers)
        while open_:
            left = []
            for start in range(0, len(open_), ASKED_AT_ONCE):
                part = open_[start : start + ASKED_AT_ONCE]
                booked = await self._booked(part)
                left += [v for v in part if not {line.key for line in v.lines} <= booked]
            if left:
                await asyncio.sleep(1.0)
            open_ = left

    async def _booked(self, part: Sequence[Any]) -> set[str]:
        keys = [f"{v.key}-{n}" for v in part for n in range(1, PROBED_LINES + 1)]
        data = await self.ask(FIND, keys=keys, numbers=sorted(v.number for v in part), first=10_000)
        found = {edge["node"]["extIdentifier"] for edge in data["posted"]["edges"]}
        if missing := [v for v in part if v.lines[0].key not in found]:
            again = [f"{v.key}-{n}" for v in missing for n in range(1, PROBED_LINES + 1)]
            data = await self.ask(POSTED_ALONE, keys=again, first=10_000)
            found |= {edge["node"]["extIdentifier"] for edge in data["posted"]["edges"]}
        return found


async def bare(order: dict[str, Any]) -> dict[str, Any]:
    """Makes the vouchers, then takes the time."""
    import aiohttp

    from samband.rules.mapping import MappingBody
    from samband.rules.posting import voucher_of
    from samband_xledger.settings import XledgerSettings

    mapping = MappingBody.model_validate(MAPPING)
    settings = XledgerSettings.model_validate(order["line"]["settings"])
    vouchers = [
        voucher_of(
            {**claim, "lines": [{**line, "amount": Decimal(line["amount"])} for line in claim["lines"]]},
            claim_id=claim["id"], key=f"{number:032x}", number=number, mapping=mapping, mapping_version=1,
            today=dt.date.fromisoformat(DAY), periods=None,
        )
        for number, claim in enumerate(claims_of(order["vouchers"]), 1)
    ]  # fmt: skip
    async with aiohttp.ClientSession() as session:
        loop = Bare(session, order["line"], order["rate"])
        cpu, start = time.process_time(), time.perf_counter()
        await loop.send(vouchers, settings)
        accepted_s = time.perf_counter() - start
        await loop.until_posted(vouchers)
        posted_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {"accepted_s": accepted_s, "posted_s": posted_s, "cpu_s": cpu_s, "peak_mib": peak_mib("self")}


def measure_bare(vouchers: int, rate: float, patience_s: float) -> dict[str, Any]:
    with xledger() as there:
        before = there.used()
        order = json.dumps({"line": there.line, "vouchers": vouchers, "rate": rate})
        done = subprocess.run(
            [sys.executable, __file__, "--bare"], input=order, stdout=subprocess.PIPE, text=True, check=True,
            timeout=patience_s,
        )  # fmt: skip
        lines = _lines(vouchers)
        there.check(vouchers, lines)
        return _told(vouchers, lines, json.loads(done.stdout), there.used() - before)


# ── samband ──────────────────────────────────────────────────────────────────


async def measure_samband(
    vouchers: int, database_url: str, folder: Path, patience_s: float, rate: float | None
) -> dict[str, Any]:
    """Orders one export of everything and waits; ``rate`` takes the place of the plugin's own limit."""
    import structlog

    from samband.adapters.registry import Registry
    from samband.hosting.embedded import EmbeddedServer
    from samband.hosting.installed import discover
    from samband.queue import Doorbell
    from samband.redaction import Redactor
    from samband.service import Service
    from samband.settings import load_settings
    from samband.store import Store, Vault

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    queue = EmbeddedServer(folder / "queue")
    await queue.start()
    registry: Registry = discover(load_settings(allow_installed=True, allow_private_hosts=("127.0.0.1",)), Redactor())
    store = Store.open(database_url, vault=Vault.from_secret(KEY))
    await store.migrate()
    bell = Doorbell(queue.url)
    service = Service(store=store, registry=registry, bell=bell)
    try:
        with xledger() as there:
            await _prepare(service, there, claims_of(vouchers))
            with _worker(database_url, queue.url, folder, rate) as worker:
                told = await _export(service, there, worker, vouchers, patience_s)
                peak = peak_mib(str(worker.pid))
                use = await asyncio.to_thread(_stop, worker)
        return told | {"peak_mib": peak, "cpu_s": round(use.ru_utime + use.ru_stime, 1)}
    finally:
        await bell.close()
        await registry.close()
        await store.close()
        await queue.stop()


async def _prepare(service: Any, there: Xledger, claims: list[dict[str, Any]]) -> None:
    settings = {**there.line["settings"], "routes": ["graphql"], "monthly_requests": None}
    await service.organizations.create(ORG, "Benchmark")
    await service.integrations.create(ORG, PLUGIN, settings=settings, credentials=there.line["credentials"])
    check = await service.integrations.test(ORG, PLUGIN)
    if not check.ok:
        raise SystemExit(f"The connection does not work: {check}")
    await service.integrations.enable(ORG, PLUGIN)
    await service.mappings.put(ORG, PLUGIN, MAPPING, effective_from=dt.date(2026, 1, 1))
    for start in range(0, len(claims), 500):
        await service.reimbursements.put_many(ORG, claims[start : start + 500])


@contextlib.contextmanager
def _worker(database_url: str, queue_url: str, folder: Path, rate: float | None) -> Iterator[subprocess.Popen[bytes]]:
    limits = "" if rate is None else f"\n[plugins.xledger.limits]\nrequests_per_s = {rate}\n"
    allowed = folder / "plugins.toml"
    allowed.write_text(f'[plugins.xledger]\ndistribution = "samband-xledger"\nversion = "*"\n{limits}', "utf-8")
    environment = {
        **os.environ, "SAMBAND_DATABASE_URL": database_url, "SAMBAND_REDIS_URL": queue_url, "SAMBAND_KEY": KEY,
        "SAMBAND_PLUGINS_FILE": str(allowed), "SAMBAND_ALLOW_PRIVATE_HOSTS": "127.0.0.1",
        "SAMBAND_LOG_LEVEL": "warning",
    }  # fmt: skip
    with (folder / "worker.log").open("wb") as log:
        command = [sys.executable, "-m", "samband", "worker"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            process.wait(30)
            sys.stderr.write((folder / "worker.log").read_text("utf-8")[-4000:])


def _stop(worker: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """Ends the worker in good order and gives what it has used, which nobody else can tell afterwards."""
    worker.send_signal(signal.SIGTERM)
    _, status, use = os.wait4(worker.pid, 0)
    worker.returncode = os.waitstatus_to_exitcode(status)
    return use


async def _export(
    service: Any, there: Xledger, worker: subprocess.Popen[bytes], vouchers: int, patience_s: float
) -> dict[str, Any]:
    await _warm_up(service)
    before, start = there.used(), time.perf_counter()
    ordered = await service.exports.order(ORG, requested_by="benchmark")  # every claim that has not gone out
    order_s, accepted_s, until_accepted = time.perf_counter() - start, 0.0, Counter[str]()
    if len(ordered.reserved) != vouchers:
        raise SystemExit(f"Only {len(ordered.reserved)} claims were reserved.")
    while True:
        states = await _states(service)
        passed_s = time.perf_counter() - start
        if not accepted_s and states["accepted"] + states["posted"] == vouchers + 1:
            accepted_s, until_accepted = passed_s, there.used() - before
        if states["posted"] == vouchers + 1:
            break
        if passed_s > patience_s or states["rejected"] or worker.poll() is not None:
            raise SystemExit(f"Not all is posted after {passed_s:.0f} s: {dict(states)}")
        await asyncio.sleep(POLL_S)
    lines = _lines(vouchers)
    there.check(vouchers + 1, lines + 2)
    figures = {"order_s": order_s, "accepted_s": accepted_s, "posted_s": passed_s}
    told = _told(vouchers, lines, figures, there.used() - before)
    return told | {"requests_until_accepted": until_accepted["in all"]}


async def _warm_up(service: Any) -> None:
    """Has the worker send one more voucher first, so that its start is over; that it is asked about later is counted."""
    claim = claims_of(1)[0]
    await service.reimbursements.put(ORG, WARM_UP, {k: v for k, v in claim.items() if k != "id"} | {"lines": [LINE]})
    run = (await service.exports.order(ORG, [WARM_UP], requested_by="benchmark")).run
    while (await service.runs.get(ORG, run.id)).is_live:
        await asyncio.sleep(0.1)
    await asyncio.sleep(3.0)  # by then it has also probed the connection and read the chart of accounts


async def _states(service: Any) -> Counter[str]:
    page = await service.exports.batches(ORG, limit=100)
    return sum((Counter(batch.states) for batch in page.items), Counter())


# ── the comparison ───────────────────────────────────────────────────────────


def _lines(vouchers: int) -> int:
    return sum(len(claim["lines"]) + 1 for claim in claims_of(vouchers))


def _told(vouchers: int, lines: int, figures: dict[str, Any], used: Counter[str]) -> dict[str, Any]:
    return {
        "vouchers_per_s": round(vouchers / figures["accepted_s"], 1),
        "lines_per_s": round(lines / figures["accepted_s"], 1),
        **{name: round(value, 1) for name, value in figures.items()},
        "requests": dict(used),
    }


def compare(vouchers: int, database_url: str, folder: Path, patience_s: float, *, is_lifted: bool) -> dict[str, Any]:
    """Measures the bare loop and then samband, under the same limit."""
    from samband_xledger.plugin import manifest

    rate = LIFTED if is_lifted else manifest.limits.requests_per_s
    there = measure_bare(vouchers, rate, patience_s)
    here = asyncio.run(measure_samband(vouchers, database_url, folder, patience_s, rate if is_lifted else None))
    return {
        "vouchers": vouchers, "lines": _lines(vouchers), "database": database_url.split(":")[0],
        "requests_per_s_allowed": rate, "share_of_bare": round(here["vouchers_per_s"] / there["vouchers_per_s"], 2),
        "bare": there, "samband": here, "load": [round(load, 1) for load in os.getloadavg()],
    }  # fmt: skip


def main() -> None:
    """Prints one JSON line for each database and limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vouchers", type=int, default=10_000)
    parser.add_argument("--postgres", action="store_true", help="measure PostgreSQL too")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds after which a side is given up")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bare:
        print(json.dumps(asyncio.run(bare(json.load(sys.stdin)))))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does, so that nothing it started is left behind
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()}
    print(json.dumps(machine), flush=True)
    for is_lifted in (False, True):
        with tempfile.TemporaryDirectory(prefix="samband-bench-") as name:
            database_url = f"sqlite:///{name}/samband.db"
            told = compare(asked.vouchers, database_url, Path(name), asked.patience, is_lifted=is_lifted)
            print(json.dumps(told), flush=True)
        if asked.postgres:
            with postgres() as database_url, tempfile.TemporaryDirectory(prefix="samband-bench-") as name:
                told = compare(asked.vouchers, database_url, Path(name), asked.patience, is_lifted=is_lifted)
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
