"""A file as JSON: what it carries, made by the core of what it keeps, so that any plugin's file can be had like this.

For programs and for proof. It is never what the accounting system takes in; that is the file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from samband.contract import Item
from samband.rules.posting import to_row
from samband.store.files import FileFacts
from samband.twin.manifest import told_of

__all__ = ["FORMAT", "MEDIA_TYPE", "plain_name", "plain_of"]

FORMAT: Final = "samband-file/1"
MEDIA_TYPE: Final = "application/json"


def plain_name(facts: FileFacts) -> str:
    """Gives the name of a file as JSON; its manifest has another one."""
    return f"{facts.name}.vouchers.json"


def plain_of(facts: FileFacts, items: Sequence[Item]) -> bytes:
    """Gives one object: the file's manifest, and its vouchers with their lines, in the order of the file.

    Amounts are text with two decimals, days and times as in ISO 8601. The same file makes the same bytes every time.

    Args:
        facts: The file's.
        items: What it carries. One that is no voucher is told with its values as they are now.
    """
    manifest = told_of(
        file=facts.name, sha256=facts.digest, size=facts.size, media_type=facts.media_type, rows=facts.rows, items=items,
        run=facts.run_id, made_at=facts.created_at,
    )  # fmt: skip
    told: dict[str, Any] = {
        "format": FORMAT,
        "manifest": manifest,
        "vouchers": [_voucher(i) for i in items if i.voucher],
    }
    if claims := [{"key": item.key, "values": dict(item.values)} for item in items if item.voucher is None]:
        told["claims"] = claims
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _voucher(item: Item) -> dict[str, Any]:
    assert item.voucher is not None
    row = to_row(item.voucher)
    # Each line tells for itself which version made it: lines are copied out of here one by one.
    made_with = {"mapping_version": item.voucher.mapping_version}
    lines = [{"key": f"{item.key}-{line['n']}", **line, **made_with} for line in row["lines"]]
    return {"key": item.key, **row, "lines": lines}
