"""The hooks that write and read files: nobody is called meanwhile, and what they give is checked before it is relied on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from samband.adapters.answers import broken_promise
from samband.adapters.receipts import checked_receipt
from samband.contract import ExportFile, HttpResponse, Receipt
from samband.errors import RemoteError
from samband.rules.reporting import FILE, number_of

__all__ = ["FILE_TIMEOUT_S", "MAX_FILE_BYTES", "NoWayOut", "checked_file", "checked_report"]

FILE_TIMEOUT_S: Final = 60.0
MAX_FILE_BYTES: Final = 32 * 1024 * 1024
"""What a plugin may give at all; how large a file may be that leaves the host is decided there."""

_MAX_RECEIPTS: Final = 10_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_MEDIA_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]+(?:; ?charset=[a-z0-9-]+)?", re.IGNORECASE)
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,40}")


class NoWayOut:
    """The session of a hook that has no business with anybody: it refuses everything."""

    def __init__(self, hook: str) -> None:
        self._hook = hook

    async def request(self, method: str, url: str, **options: Any) -> HttpResponse:
        raise self._refusal()

    async def renew_token(self) -> None:
        raise self._refusal()

    async def fill_names(self) -> frozenset[str]:
        raise self._refusal()

    def _refusal(self) -> RemoteError:
        return RemoteError(
            f"{self._hook} must not call anybody.", code="file_hook_calls_nobody", hint="Make it of what is given."
        )


def checked_file(plugin: str, file: object) -> ExportFile:
    """Gives the file when it can be kept and delivered under its name; `ContractError` otherwise."""
    if not isinstance(file, ExportFile):
        raise broken_promise(plugin, "render", f"gave {type(file).__name__}", "return a samband.ExportFile.")
    if not isinstance(file.name, str) or not _NAME.fullmatch(file.name):
        way_out = "use 1 to 120 letters, digits, dots, hyphens and underscores, and begin with a letter or digit."
        raise broken_promise(plugin, "render", "gave a file name that is not safe everywhere", way_out)
    if file.name.lower().endswith(".part"):
        raise broken_promise(
            plugin, "render", "gave a name that ends in .part", "that is what unfinished files end in."
        )
    if not isinstance(file.content, bytes) or len(file.content) > MAX_FILE_BYTES:
        raise broken_promise(plugin, "render", "gave no bytes, or too many", f"stay within {MAX_FILE_BYTES} bytes.")
    if not isinstance(file.media_type, str) or not _MEDIA_TYPE.fullmatch(file.media_type):
        raise broken_promise(plugin, "render", "gave no media type", "write one such as text/csv; charset=utf-8.")
    if type(file.rows) is not int or file.rows < 0:
        raise broken_promise(plugin, "render", "gave no number of rows", "count the lines that carry data.")
    return file


def checked_report(plugin: str, receipts: object, scrub: Callable[[str], str]) -> list[Receipt]:
    """Gives what a report says, one receipt for each key; of several for one key the last.

    A voucher's number in place of a key is somebody else's in another file, and so is kept once for each file.
    """
    if not isinstance(receipts, list | tuple):
        raise broken_promise(plugin, "acknowledge", "gave no list of receipts", "return a list of samband.Receipt.")
    if len(receipts) > _MAX_RECEIPTS:
        raise broken_promise(plugin, "acknowledge", "gave too many receipts", f"stay within {_MAX_RECEIPTS}.")
    checked = [checked_receipt(plugin, "acknowledge", receipt, scrub) for receipt in receipts]
    if any(receipt.state == "unknown" or not _KEY.fullmatch(receipt.key) for receipt in checked):
        way_out = "leave out what the report does not tell, and give the keys that the items carried."
        raise broken_promise(plugin, "acknowledge", "gave a key or a state that no report tells", way_out)
    return list({(receipt.key, _file_of(receipt)): receipt for receipt in checked}.values())


def _file_of(receipt: Receipt) -> str | None:
    return None if number_of(receipt) is None else receipt.evidence.get(FILE)
