"""What a plugin says became of items: each receipt shown to keep the promises of ``export``, or of ``find_exported``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from samband.adapters.answers import broken_promise
from samband.contract import Receipt

__all__ = ["Receipts", "checked_evidence", "checked_receipt"]

_STATES = ("accepted", "posted", "rejected", "unknown")
_MAX_TEXT = 4_000
_MAX_REFERENCE = 400
_MAX_CODE = 64
_MAX_EVIDENCE = 20
_MAX_VALUE = 400
_WAY_OUT = "every item gets one receipt, with its own key."
_END = object()


class Receipts:
    """Checks receipts as they come; an async iterator that belongs to the plugin's lane.

    Args:
        plugin: Named in errors.
        hook: ``export`` or ``find_exported``.
        receipts: What the hook gave.
        keys: The items that were asked about.
        scrub: Takes secrets out of their words.
    """

    def __init__(
        self, plugin: str, hook: str, receipts: AsyncIterator[object], keys: Sequence[str], scrub: Callable[[str], str]
    ) -> None:
        self._plugin = plugin
        self._hook = hook
        self._receipts = receipts
        self._open = set(keys)
        self._scrub = scrub

    def __aiter__(self) -> Receipts:
        return self

    async def __anext__(self) -> Receipt:
        receipt = await anext(self._receipts, _END)
        if receipt is _END:
            raise StopAsyncIteration
        checked = checked_receipt(self._plugin, self._hook, receipt, self._scrub)
        if checked.key not in self._open:
            what = "gave a receipt for an item that it was not given, or a second one for the same item"
            raise broken_promise(self._plugin, self._hook, what, _WAY_OUT)
        self._open.discard(checked.key)
        return checked

    async def aclose(self) -> None:
        close = getattr(self._receipts, "aclose", None)
        if close is not None:
            await close()


def checked_receipt(plugin: str, hook: str, receipt: object, scrub: Callable[[str], str]) -> Receipt:
    """Gives the receipt, its words scrubbed and as long as they can be kept; `ContractError` when it is none."""
    what = _wrong_with(receipt)
    if what is not None:
        raise broken_promise(plugin, hook, what, _WAY_OUT)
    assert isinstance(receipt, Receipt)
    return replace(
        receipt,
        code=None if receipt.code is None else _kept(scrub, receipt.code, _MAX_CODE),
        field=None if receipt.field is None else _kept(scrub, receipt.field, _MAX_VALUE),
        message=_kept(scrub, receipt.message, _MAX_TEXT),
        evidence=checked_evidence(receipt.evidence, scrub),
    )


def checked_evidence(evidence: Mapping[str, str], scrub: Callable[[str], str]) -> dict[str, str]:
    """Gives what is kept as proof: at most 20 entries of at most 400 characters, without secrets."""
    kept = list(evidence.items())[:_MAX_EVIDENCE]
    return {_kept(scrub, label, _MAX_CODE): _kept(scrub, value, _MAX_VALUE) for label, value in kept}


def _wrong_with(receipt: object) -> str | None:
    if not isinstance(receipt, Receipt):
        return f"yielded {type(receipt).__name__} instead of samband.Receipt"
    if not isinstance(receipt.key, str):
        return "gave a receipt without a key"
    if receipt.state not in _STATES:
        return f"gave a receipt whose state is none of {', '.join(_STATES)}"
    if receipt.reference is not None and not _is_text(receipt.reference, _MAX_REFERENCE):
        return "gave a reference that is no text of 1 to 400 characters"
    if receipt.state == "posted" and receipt.reference is None:
        return "says that an item is posted without the number it is booked under"
    if receipt.state == "rejected" and not (receipt.message or receipt.code):
        return "rejected an item without saying why"
    if not isinstance(receipt.evidence, Mapping):
        return "gave evidence that is no mapping"
    return None


def _kept(scrub: Callable[[str], str], text: object, limit: int) -> str:
    # PostgreSQL cannot store NUL, and a receipt that cannot be stored would leave its item uncertain.
    return scrub(str(text)).replace("\x00", "")[:limit]


def _is_text(value: object, limit: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limit and "\x00" not in value
