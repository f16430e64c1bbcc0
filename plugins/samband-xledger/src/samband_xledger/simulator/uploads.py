"""Files that came in, over SOAP or through the drop folder, on their way into the staging table."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from .files import UnreadableFile, rows_of_csv, rows_of_xml, staged_lines
from .staging import stage
from .world import Upload, World


def receive(
    world: World, *, door: str, name: str, content: bytes, entity: str, import_code: str = "", user: str = ""
) -> Upload:
    """Keeps a file for the import job."""
    upload = Upload(
        number=len(world.uploads) + 1, door=door, name=name, content=content, entity=entity, import_code=import_code,
        user=user, received=world.clock.local(),
    )  # fmt: skip
    world.uploads.append(upload)
    return upload


def rows_of(upload: Upload) -> list[dict[str, str]]:
    """Returns a file's rows; raises `UnreadableFile`."""
    # Uploads carry XML or CSV in the same call; the content tells which.
    is_xml = upload.content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<")
    return rows_of_xml(upload.content) if is_xml else rows_of_csv(upload.content)


def take_in(world: World) -> None:
    """Stages every file that waits; one that cannot be read is marked as failed and stages nothing."""
    for upload in world.uploads:
        if upload.state == "waiting":
            _take_in(world, upload)


def _take_in(world: World, upload: Upload) -> None:
    try:
        rows = rows_of(upload)
        by_owner: dict[int, list[dict[str, str]]] = defaultdict(list)
        for row in rows:
            by_owner[_owner(world, row.get("EntityCode") or upload.entity)].append(row)
    except UnreadableFile as problem:
        upload.state, upload.message = "failed", str(problem)
        return
    delivery = f"{upload.door}{upload.number}"
    for owner, lines in by_owner.items():
        staged = stage(world, owner, staged_lines(world, owner, lines), door=upload.door, delivery=delivery)
        upload.rows.extend(
            {"row": row["dbId"], "voucher": row.get("trRegNumber"), "line": number, "_item": row}
            for number, row in enumerate(staged, start=1)
        )
    upload.state = "staged"


def _owner(world: World, code: str) -> int:
    entity = world.entity(code)
    if entity is None:
        raise UnreadableFile(f"There is no entity {code[:20]}.")
    return int(entity["dbId"])


def shown(upload: Upload) -> dict[str, Any]:
    """Returns a file as the control door shows it."""
    return {
        "number": upload.number,
        "door": upload.door,
        "name": upload.name,
        "bytes": len(upload.content),
        "import_code": upload.import_code,
        "received": upload.received,
        "state": upload.state,
        "message": upload.message,
        "rows": len(upload.rows),
    }
