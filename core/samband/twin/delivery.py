"""Putting a file into a drop point, and telling afterwards whether it got there.

The order is what the proof rests on:

1. the manifest, in a folder that only we use;
2. the file under ``<name>.part``, which nobody takes;
3. the name. That step is done or not done, never half.

So: without a manifest the file was never delivered. With ``<name>.part`` and without ``<name>`` it was not delivered.
With ``<name>``, there or in the archive, it was. With a manifest and none of these it cannot be told, because the other
side may have taken the file or somebody may have tidied up; unless the store knows that step 3 was never begun, which
it is told right before (`samband.store.files`).
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import structlog

from samband.contract import ExportFile
from samband.errors import OutcomeUnknownError, RetryableError
from samband.store.files import FileFacts
from samband.twin.manifest import manifest_name
from samband.twin.place import Place, trouble
from samband.twin.points import Point

__all__ = ["Whereabouts", "part_name", "put_ready", "release", "whereabouts", "withdraw"]

log = structlog.stdlib.get_logger("samband.twin")

Whereabouts = Literal["delivered", "not_delivered", "unknown"]
_LARGEST: Final = 64 * 1024 * 1024


def part_name(name: str) -> str:
    """Gives what a file is called until it is whole."""
    return f"{name}.part"


async def put_ready(place: Place, point: Point, file: ExportFile, manifest: bytes) -> None:
    """Writes manifest and file, the file under a name that nobody takes. Nothing is delivered by that.

    Raises:
        UnavailableError: Nothing was delivered.
    """
    await place.prepare(point.manifests, point.acknowledged, point.archive)
    if await place.size("", file.name) is not None:
        raise trouble(
            "A file of the same name lies in the drop point and is not known here.", code="file_name_taken",
            hint="See what it is; move it to the archive folder when the other side has taken it in.",
        )  # fmt: skip
    await place.write(point.manifests, manifest_name(file.name), manifest)
    await place.write("", part_name(file.name), file.content)


async def release(place: Place, name: str) -> None:
    """Gives the file its name.

    Raises:
        OutcomeUnknownError: No answer came: it may have its name or not.
    """
    try:
        await place.rename(part_name(name), name)
    except RetryableError as error:
        raise OutcomeUnknownError(error.message, code="file_outcome_unknown", hint=error.hint) from None


async def whereabouts(place: Place, point: Point, facts: FileFacts) -> Whereabouts:
    """Tells whether a file was delivered, from what lies in the drop point.

    A file that was not is made sure not to be: its unfinished form is taken away, so that a worker which was only
    paused cannot give it its name any more.
    """
    is_ours = facts.state == "releasing" or await place.size(point.manifests, manifest_name(facts.name)) is not None
    for _ in range(2):  # the name may appear between two looks, and then it stays
        for folder in ("", point.archive):
            if (size := await place.size(folder, facts.name)) is not None:
                found = await _compared(place, folder, facts, size)
                return found if is_ours or found == "delivered" else "not_delivered"
        if await place.remove("", part_name(facts.name)):
            await withdraw(place, point, facts.name)
            return "not_delivered"
    if facts.state != "releasing":  # never released, so nobody can have taken it either
        await withdraw(place, point, facts.name)
        return "not_delivered"
    return "unknown"


async def withdraw(place: Place, point: Point, name: str) -> None:
    """Takes away what is left of a file that was not delivered: the part first, the manifest last."""
    await place.remove("", part_name(name))
    await place.remove(point.manifests, manifest_name(name))


async def _compared(place: Place, folder: str, facts: FileFacts, size: int) -> Whereabouts:
    content = await place.read(folder, facts.name, min(size, _LARGEST)) if size == facts.size else None
    if content is not None and hashlib.sha256(content).hexdigest() == facts.digest:
        return "delivered"
    if size == facts.size and content is None:
        return "delivered"  # taken between two looks: it was there, whole
    log.warning("delivered_file_differs", file=facts.id, size=size, expected=facts.size)
    return "unknown"
