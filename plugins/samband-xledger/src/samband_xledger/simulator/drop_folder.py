"""The drop folder: files are picked up when they are complete, moved aside, and answered with a report.

``<folder>/*.csv`` is read, names that end in anything else are somebody's unfinished work. A file goes to ``imported/``
or ``rejected/``; its report, with the same name, to ``acknowledged/`` once the job has dealt with every line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .faults import FaultBook
from .files import UnreadableFile, rows_of_csv
from .staging import withdraw
from .uploads import receive
from .world import Upload, World

REPORT_COLUMNS = ("file", "voucher no", "line", "state", "transaction number", "message", "text")


def prepare(folder: Path) -> None:
    """Makes the folder and what belongs below it."""
    for name in ("imported", "rejected", "acknowledged"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def pick_up(world: World, folder: Path, entity: str, faults: FaultBook) -> list[Upload]:
    """Takes every complete file out of the folder; the job sees them at its next run.

    The fault ``drop`` of this door loses a file (moved, never imported, no report), or, with ``commit``, only its report.
    """
    prepare(folder)
    found = []
    for path in sorted(folder.glob("*.csv")):
        if path.name.startswith(".") or not path.is_file():
            continue
        content = path.read_bytes()
        upload = receive(world, door="drop", name=path.name, content=content, entity=entity)
        found.append(upload)
        try:
            rows_of_csv(content)
        except UnreadableFile as problem:
            upload.state, upload.message = "failed", str(problem)
            path.replace(folder / "rejected" / path.name)
            _write(folder, path.name, [(path.name, "", "", "rejected", "", str(problem), "")])
        else:
            path.replace(folder / "imported" / path.name)
            rule = faults.strike("drop", ("drop",))
            upload.is_silent = rule is not None
            if rule is not None and not rule.commit:
                upload.state = "lost"
    return found


def report(world: World, folder: Path) -> int:
    """Writes the reports of files whose every line was posted or refused; returns how many."""
    written = 0
    for upload in world.uploads:
        if upload.door == "drop" and upload.state == "staged":
            lines = [_fate(world, upload, row) for row in upload.rows]
            if all(line is not None for line in lines):
                if not upload.is_silent:
                    _write(folder, upload.name, [line for line in lines if line is not None])
                    written += 1
                _clear(world, upload)
                upload.state = "reported"
        elif upload.door == "drop" and upload.state == "failed" and not _path(folder, upload.name).exists():
            _write(folder, upload.name, [(upload.name, "", "", "rejected", "", upload.message, "")])
            written += 1
    return written


def _fate(world: World, upload: Upload, row: dict[str, Any]) -> tuple[Any, ...] | None:
    item = row["_item"]
    header = item.get("_header")
    start = (upload.name, row["voucher"] or "", row["line"])
    text = item.get("text") or ""
    if header is not None:
        return (*start, "posted", header["transactionNumber"], "", text)
    if not item.get("_failed"):
        return None
    problems = world["glImportItemErrors"].having("transactionDbId", [item["dbId"]])
    return (*start, "rejected", "", " ".join(problem["message"] for problem in problems), text)


def _clear(world: World, upload: Upload) -> None:
    """Takes refused lines out of the staging table: the sender was told, and sends them again when they are right."""
    for row in upload.rows:
        if "_header" not in row["_item"]:
            withdraw(world, row["_item"])


def _path(folder: Path, name: str) -> Path:
    return folder / "acknowledged" / name


def _write(folder: Path, name: str, lines: Iterable[tuple[Any, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", lineterminator="\r\n")
    writer.writerow(REPORT_COLUMNS)
    writer.writerows(lines)
    unfinished = _path(folder, f"{name}.part")
    unfinished.write_text(text.getvalue(), encoding="utf-8", newline="")
    unfinished.replace(_path(folder, name))
