"""The manifest of a file: what stands in it, written before it, for whoever has to find out afterwards."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import orjson

from samband.contract import ExportFile, Item

__all__ = ["FORMAT", "batch_id", "manifest_name", "manifest_of", "told_of"]

FORMAT: Final = "samband-manifest/1"


def batch_id(items: Sequence[Item]) -> str:
    """Gives a batch's name made of what it holds: the same items in the same order have the same one."""
    return hashlib.blake2b("\n".join(item.key for item in items).encode(), digest_size=16).hexdigest()


def manifest_name(file_name: str) -> str:
    """Gives the name of a file's manifest."""
    return f"{file_name}.json"


def manifest_of(file: ExportFile, digest: str, items: Sequence[Item], *, made_for: str) -> bytes:
    """Gives the manifest: no name of a person, no account, no amount of a single claim.

    Args:
        file: What it describes.
        digest: SHA-256 of the file's bytes.
        items: What the file carries.
        made_for: The batch, or rather the run, on whose behalf.
    """
    told = told_of(
        file=file.name, sha256=digest, size=len(file.content), media_type=file.media_type, rows=file.rows, items=items,
        run=made_for, made_at=dt.datetime.now(dt.UTC),
    )  # fmt: skip
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def told_of(
    *, file: str, sha256: str, size: int, media_type: str, rows: int, items: Sequence[Item], run: str | None,
    made_at: dt.datetime,
) -> dict[str, Any]:  # fmt: skip
    """Gives what a manifest says, from what is known of a file whether its bytes are at hand or not."""
    return {
        "format": FORMAT,
        "file": file,
        "sha256": sha256,
        "size": size,
        "media_type": media_type,
        "rows": rows,
        "items": len(items),
        "debits": _debits(items),
        "keys": [_line(item) for item in items],
        "batch": batch_id(items),
        "run": run,
        "made_at": made_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def _debits(items: Sequence[Item]) -> dict[str, str]:
    """Gives what is debited per currency; the credits are the same, because every voucher is balanced."""
    sums: dict[str, Decimal] = {}
    for voucher in (item.voucher for item in items if item.voucher is not None):
        debit = sum((line.amount for line in voucher.lines if line.amount > 0), Decimal("0.00"))
        sums[voucher.currency] = sums.get(voucher.currency, Decimal("0.00")) + debit
    return {currency: f"{amount:.2f}" for currency, amount in sorted(sums.items())}


def _line(item: Item) -> dict[str, Any]:
    if item.voucher is None:
        return {"key": item.key}
    return {"key": item.key, "voucher": item.voucher.number, "mapping_version": item.voucher.mapping_version}
