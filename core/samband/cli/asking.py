"""Asking back before what cannot be undone: only at a terminal, and never where ``--yes`` has answered already."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from samband.cli.output import note, plain
from samband.errors import ConfigurationError, SambandError

__all__ = ["Yes", "confirm", "demand_terminal"]

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking back; without a terminal it is needed.")]
_AGREED: Final = ("y", "yes")


def demand_terminal() -> None:
    """Refuses where nobody can be asked, before anything else is done.

    Raises:
        ConfigurationError: Standard input is no terminal.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "This asks back before it is done, and there is no terminal to ask at.",
            code="confirmation_needed", hint="Give --yes when you are sure.",
        )  # fmt: skip


def confirm(facts: Iterable[str], question: str) -> None:
    """Says what it is about and asks; the question goes to standard error, so that it is no part of the result.

    Raises:
        SambandError: The answer was not yes.
    """
    for line in facts:
        note(plain(line))
    sys.stderr.write(f"{question} Type yes to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in _AGREED:
        raise SambandError("You did not say yes, so nothing was done.", code="not_confirmed")
