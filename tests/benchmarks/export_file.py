"""How long it takes to write a file of 380 rows for people and to read it again, and how large it is.

    python tests/benchmarks/export_file.py [rows]

The requirement that it is held against: 380 rows in less than 100 ms, and at most 10 MiB.
"""

from __future__ import annotations

import datetime as dt
import statistics
import sys
import time
from decimal import Decimal

from samband.spreadsheet import Column, read_human, write_human

COLUMNS = (
    Column(name="number", heading="Bilagsnr", kind="code", width=8),
    Column(name="date", heading="Bilagsdato", kind="date"),
    Column(name="account", heading="Konto", kind="code", width=4),
    Column(name="amount", heading="Beløp", kind="amount"),
    Column(name="project", heading="Prosjekt", kind="code"),
    Column(name="text", heading="Tekst"),
    Column(name="payee", heading="Mottaker"),
    Column(name="kilometres", heading="Kilometer", kind="decimal"),
)
REPEATS = 30


def main(rows: int) -> None:
    made = [
        {
            "number": f"{10_000_000 + n // 2}", "date": dt.date(2026, 3, 1 + n % 28), "account": f"{7000 + n % 900:04d}",
            "amount": Decimal(n * 37 % 100_000) / 100 * (1 if n % 2 else -1), "project": f"P-{n % 40:03d}",
            "text": f"Kjøregodtgjørelse, likeperson {n}, +47 900 00 {n % 1000:03d}", "payee": f"Kåre Ærlig {n}",
            "kilometres": Decimal(n % 900) / 10,
        }
        for n in range(rows)
    ]  # fmt: skip
    content = write_human(COLUMNS, made)
    for name, work in (("write", lambda: write_human(COLUMNS, made)), ("read", lambda: read_human(content, COLUMNS))):
        took = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            work()
            took.append((time.perf_counter() - started) * 1000)
        print(f"{name}: {rows} rows, median {statistics.median(took):.2f} ms, worst {max(took):.2f} ms")
    print(f"size: {len(content)} bytes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 380)
