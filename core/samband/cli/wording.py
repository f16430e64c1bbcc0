"""The host's advice in the words of the command line.

A hint is written once, for whoever asks over HTTP; whoever types commands is told the command or option that is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, get_args

__all__ = ["PHRASES", "in_words_of_commands", "names_of"]

PHRASES: Final[Mapping[str, str]] = {
    "ours_only=true": "--ours-only",
    ", or PUT it here": "",
    "PUT …/integrations/{type}/mapping": "'samband mapping put'",
    "PUT at this address": "'samband webhook set'",
    "/v1/organizations": "'samband org list'",
    "/v1/plugins": "'samband plugins'",
    "the new ETag": "its new revision as --revision",
}
"""What a hint says of the API → the same on the command line."""


def in_words_of_commands(hint: str) -> str:
    """Gives a hint with commands and options in place of addresses and parameters."""
    for phrase, words in PHRASES.items():
        hint = hint.replace(phrase, words)
    return hint


def names_of(kind: object) -> str:
    """Gives the values that a literal type allows as a phrase, for the help of an option that takes one of them."""
    *others, last = get_args(kind)
    return f"{', '.join(others)} or {last}"
