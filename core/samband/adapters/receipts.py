"""What a plugin says became of items: each receipt shown to keep the promises of ``export``, or of ``find_exported``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from samband.adapters.answers import broken_promise
from samband.contract import Receipt

__all__ = ["Receipts"]

_MAX_TEXT = 4_000
_MAX_REFERENCE = 400
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
        return self._checked(receipt)

    async def aclose(self) -> None:
        close = getattr(self._receipts, "aclose", None)
        if close is not None:
            await close()

    def _checked(self, receipt: object) -> Receipt:
        if not isinstance(receipt, Receipt):
            raise self._broken(f"yielded {type(receipt).__name__} instead of samband.Receipt")
        if receipt.key not in self._open:
            raise self._broken("gave a receipt for an item that it was not given, or a second one for the same item")
        if receipt.state not in ("accepted", "rejected", "unknown"):
            raise self._broken("gave a receipt whose state is none of accepted, rejected and unknown")
        if self._hook == "find_exported" and receipt.state != "accepted":
            raise self._broken("gave a receipt for an item that is not there")
        if receipt.state == "accepted" and not _is_text(receipt.reference, _MAX_REFERENCE):
            raise self._broken("accepted an item without their reference")
        if receipt.state == "rejected" and not (receipt.message or receipt.code):
            raise self._broken("rejected an item without saying why")
        self._open.discard(receipt.key)
        return replace(receipt, message=self._scrub(str(receipt.message))[:_MAX_TEXT])

    def _broken(self, what: str) -> Exception:
        return broken_promise(self._plugin, self._hook, what, "every item gets one receipt, with its own key.")


def _is_text(value: object, limit: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limit and "\x00" not in value
