"""What the command line says, and how it ends: plain text for people, one JSON document for programs, one exit code.

Text is written to be heard as well as seen: no colour, no boxes, nothing that moves; every state is a word. Results go
to standard output. Everything that happens on the way (progress, logs, keys that are shown once) goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import orjson

from samband.cli.wording import in_words_of_commands
from samband.errors import (
    AccessError,
    AuthError,
    ConfigurationError,
    ConflictError,
    InvalidError,
    NotFoundError,
    NotReadyError,
    PluginError,
    RetryableError,
    SambandError,
    StoreError,
)

__all__ = [
    "ExitCode",
    "counts_text",
    "error_document",
    "exit_code_of",
    "facts",
    "fail",
    "note",
    "plain",
    "show",
    "table",
]

# What another system calls a record may hold anything; a terminal obeys some of it, and a table breaks over the rest.
_CONTROLS = dict.fromkeys([*range(32), *range(127, 160), 0x2028, 0x2029], " ")


class ExitCode(IntEnum):
    """How a command ended. These numbers are part of the interface and do not change.

    Attributes:
        OK: Done, and everything came out right.
        FAILED: Done, and the work itself came out wrong: a failed run, a connection test that found something.
        USAGE: The arguments, a variable or a file is wrong; nothing was started.
        NOT_FOUND: There is no such organisation, integration, run or plugin.
        CONFLICT: It is there, in a state that does not allow this; for instance a run that is still going on.
        UNREACHABLE: The host, its database or its queue does not answer.
        REFUSED: The API key is missing, wrong, or does not reach this far.
        INTERNAL: A fault in samband itself.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    REFUSED = 6
    INTERNAL = 70


_CODES: tuple[tuple[type[SambandError], ExitCode], ...] = (
    (ConfigurationError, ExitCode.USAGE),
    (InvalidError, ExitCode.USAGE),
    (NotFoundError, ExitCode.NOT_FOUND),
    (ConflictError, ExitCode.CONFLICT),
    (NotReadyError, ExitCode.UNREACHABLE),
    (StoreError, ExitCode.UNREACHABLE),
    (AccessError, ExitCode.REFUSED),
    (AuthError, ExitCode.FAILED),
    (RetryableError, ExitCode.FAILED),
    (PluginError, ExitCode.FAILED),
)


def exit_code_of(error: SambandError) -> ExitCode:
    """Gives the exit code of an error that ended a command."""
    if error.code == "internal_error":
        return ExitCode.INTERNAL
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def show(document: Any, text: Iterable[str] | Callable[[], Iterable[str]], *, as_json: bool) -> None:
    """Writes a command's result: ``document`` as JSON on one line, or ``text`` line by line."""
    if as_json:
        sys.stdout.write(orjson.dumps(document, default=_plain).decode() + "\n")
    else:
        lines = text() if callable(text) else text
        sys.stdout.write("".join(f"{plain(line)}\n" for line in lines))
    sys.stdout.flush()


def plain(line: str) -> str:
    """Gives a line without what a terminal would obey or break."""
    return line.translate(_CONTROLS)


def note(line: str) -> None:
    """Writes a line for whoever watches; it is not part of the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def fail(error: SambandError, *, as_json: bool) -> ExitCode:
    """Tells why a command ended, and gives its exit code."""
    code = exit_code_of(error)
    if as_json:
        show({"ok": False, "exit_code": int(code), "error": error_document(error)}, (), as_json=True)
    else:
        note("\n".join(map(plain, _error_lines(error))))
    return code


def error_document(error: SambandError) -> dict[str, Any]:
    """Gives an error in the shape of `samband.views.ErrorView`, with the fields at fault where there are any."""
    document: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "hint": in_words_of_commands(error.hint),
        "field": error.field,
        "remote_message": error.remote_message,
    }
    if isinstance(error, InvalidError | ConflictError) and (error.problems or isinstance(error, InvalidError)):
        document["problems"] = [{"field": p.field, "code": p.code, "message": p.message} for p in error.problems]
    run_id = getattr(error, "run_id", None)
    return document if run_id is None else document | {"run": run_id}


def _error_lines(error: SambandError) -> Iterable[str]:
    yield f"Error: {error.message}"
    if isinstance(error, InvalidError | ConflictError):
        yield from (f"  {problem.field}: {problem.message}" for problem in error.problems)
    if error.remote_message:
        yield f"They said: {error.remote_message}"
    if error.hint:
        yield f"What to do: {in_words_of_commands(error.hint)}"
    yield f"Code: {error.code}"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Gives rows as aligned text under their headings, two spaces between columns and nothing drawn."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(headings), *cells]) for i in range(len(headings))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [list(headings), *cells]
    ]


def facts(*pairs: tuple[str, object]) -> Iterable[str]:
    """Gives one line for each fact that is known; None, an empty text and an empty list are not."""
    for name, value in pairs:
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        if value is None or value == "":
            continue
        yield f"{name}: {({True: 'yes', False: 'no'}[value]) if isinstance(value, bool) else value}"


def counts_text(counts: Mapping[str, int]) -> str:
    """Gives the counts of a run as a phrase, without the ones that are zero."""
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "nothing"


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump is not None else str(value)
