"""Turns whatever a plugin raises into the error tree, so that the core only ever meets errors it has a plan for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from types import TracebackType

from samband.adapters.loopthread import is_stdlib
from samband.errors import (
    AdapterError,
    AuthError,
    ContractError,
    CursorExpiredError,
    OutcomeUnknownError,
    RetryableError,
    SambandError,
    UnavailableError,
)

__all__ = ["Containment"]

_SHOWN_FRAMES = 3
_OWN_PACKAGE = __name__.partition(".")[0]


class Containment:
    """Knows one plugin well enough to say where in its code something went wrong.

    Args:
        plugin: The plugin's name.
        package: The top-level package its code lives in.
        scrub: Takes secrets out of a text and bounds its length.
    """

    def __init__(self, plugin: str, package: str, scrub: Callable[[str], str]) -> None:
        self._plugin = plugin
        self._package = package
        self._scrub = scrub

    @contextmanager
    def around(self, hook: str) -> Iterator[None]:
        """Lets errors of the tree pass, scrubbed; everything else leaves as a `ContractError` that names the place.

        A cancellation that the core asked for passes too. One that the plugin made up does not.
        """
        task = _current_task()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit) as error:
            was_asked_for = task is not None and task.cancelling() > 0
            if _current_task() is not task or (was_asked_for and isinstance(error, asyncio.CancelledError)):
                raise
            raise self.translated(hook, error) from None
        except BaseException as error:  # noqa: BLE001 -- plugins raise what they like, SystemExit included
            # The cause is cut off on purpose: its text is a stranger's and may hold a member's data.
            raise self.translated(hook, error) from None

    @contextmanager
    def parsing(self, form: str) -> Iterator[None]:
        """Lets the host's own errors pass; what a plugin's validator raises by mistake becomes a `ContractError`."""
        try:
            yield
        except SambandError:
            raise
        except Exception as error:  # noqa: BLE001 -- a validator is the plugin's code
            raise self.translated(f"its {form} model", error) from None

    def translated(self, hook: str, error: BaseException) -> AdapterError:
        """Gives the error of the tree that stands for ``error``; of a group, the one that decides what happens next."""
        if isinstance(error, BaseExceptionGroup):
            error = _deciding(error)
        if isinstance(error, AdapterError):
            return self._scrubbed(error)
        if isinstance(error, TimeoutError):
            return UnavailableError(
                f"{self._plugin} gave no answer in {hook} within its time limit.",
                code="hook_timeout",
                hint="It is tried again; if it happens often, ask whether the other system is slow.",
            )
        return ContractError(
            f"{self._plugin} raised {type(error).__name__} in {hook} ({self.place(error.__traceback__)}).",
            hint="Tell the plugin's author; the host and other integrations are not affected.",
        )

    def place(self, traceback: TracebackType | None) -> str:
        """Gives the plugin's last lines on the way to an error, innermost first, as ``pkg/client.py:40``."""
        own: list[str] = []
        foreign: list[str] = []
        host: list[str] = []
        while traceback is not None:
            frame = traceback.tb_frame
            filename = frame.f_code.co_filename
            line = f"{'/'.join(PurePath(filename).parts[-2:])}:{traceback.tb_lineno}"
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            if package == self._package:
                own.append(line)
            elif not is_stdlib(filename):
                (host if package == _OWN_PACKAGE else foreign).append(line)
            traceback = traceback.tb_next
        return ", ".join(list(reversed(own or foreign or host))[:_SHOWN_FRAMES]) or "an unknown place"

    def _scrubbed(self, error: AdapterError) -> AdapterError:
        """Bounds and scrubs an error that a plugin has built; its fields may hold anything."""
        error.message = self._scrub(str(error.message))
        error.args = (error.message,)
        error.hint = self._scrub(str(error.hint))
        error.remote_message = self._scrub(str(error.remote_message))
        error.code = self._scrub(str(error.code))[:100]
        error.field = None if error.field is None else self._scrub(str(error.field))[:200]
        if isinstance(error, RetryableError) and not _is_duration(error.retry_after_s):
            error.retry_after_s = None
        error.__cause__ = None
        error.__suppress_context__ = True
        return error


def _deciding(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Gives one error of a task group: what is not of the tree first, then what must not be tried again."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    return min(leaves, key=_severity)


def _severity(error: BaseException) -> int:
    order = (OutcomeUnknownError, AuthError, CursorExpiredError)
    if not isinstance(error, AdapterError | TimeoutError):
        return -1
    if isinstance(error, RetryableError | TimeoutError):
        return len(order) + 1
    return next((rank for rank, kind in enumerate(order) if isinstance(error, kind)), len(order))


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
