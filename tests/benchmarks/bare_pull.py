"""The bare loop the pull is measured against: aiohttp client, orjson, one set-based upsert a page, nothing else.

``python tests/benchmarks/bare_pull.py URL DATABASE`` reads every page and prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import sys
import time

import aiohttp
import orjson


async def pull(url: str, path: str) -> dict[str, float]:
    """Reads all contacts into one table and gives what it cost."""
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-8000", "wal_autocheckpoint=4000"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE IF NOT EXISTS contact (id TEXT PRIMARY KEY, version TEXT, body TEXT)")
    records, cpu, start = 0, time.process_time(), time.perf_counter()
    async with aiohttp.ClientSession(auto_decompress=True) as session:
        link: str | None = f"{url}/api/data/v9.2/contacts"
        while link:
            async with session.get(link) as answer:
                page = orjson.loads(await answer.read())
            rows = [(row["contactid"], row["@odata.etag"], orjson.dumps(row)) for row in page["value"]]
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO contact VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
                "SET version = excluded.version, body = excluded.body",
                rows,
            )
            db.execute("COMMIT")
            records += len(rows)
            link = page.get("@odata.nextLink")
    seconds = time.perf_counter() - start
    return {
        "records": records,
        "seconds": round(seconds, 3),
        "records_per_s": round(records / seconds),
        "cpu_s_per_1000": round((time.process_time() - cpu) / records * 1000, 5),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(pull(sys.argv[1], sys.argv[2]))))
