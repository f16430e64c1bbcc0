"""Advice is given in the words of whoever reads it: no address and no parameter at a terminal."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import samband
from samband.cli import run
from samband.cli.output import fail
from samband.cli.wording import PHRASES, in_words_of_commands, names_of
from samband.errors import ConflictError
from samband.views.exports import ItemState
from samband.views.reimbursements import CorrectionState

OF_THE_API = re.compile(r"\b(GET|PUT|POST|PATCH|DELETE|ETag|If-Match|Content-\w+)\b|/v1/|…/|=true\b")
NEVER_TYPED = {
    "Send it without Content-Encoding.": "the command line compresses nothing",
    "Send 'Content-Type: application/json'.": "the command line says so always",
}
"""Hint → why nobody gets it who types commands."""


def _hints() -> Iterator[str]:
    for file in Path(samband.__file__).parent.rglob("*.py"):
        if "testing" in file.parts or "cli" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                yield from _texts(node.value)


def _texts(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def test_no_hint_speaks_of_the_api_to_somebody_who_types() -> None:
    hints = set(_hints())
    assert len(hints) > 100
    assert NEVER_TYPED.keys() <= hints
    told = {hint: in_words_of_commands(hint) for hint in hints - NEVER_TYPED.keys()}
    assert {} == {hint: words for hint, words in told.items() if OF_THE_API.search(words)}


def test_every_phrase_is_one_that_some_hint_has() -> None:
    hints = "\n".join(_hints())
    assert [] == [phrase for phrase in PHRASES if phrase not in hints]


@pytest.mark.parametrize("as_json", [False, True])
def test_hint_of_an_error_names_the_option(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    hint = "Ask with ours_only=true for what samband itself knows."
    fail(ConflictError("It cannot be compared.", hint=hint), as_json=as_json)
    written = capsys.readouterr()
    told = json.loads(written.out)["error"]["hint"] if as_json else written.err
    assert "Ask with --ours-only for what samband itself knows." in told
    assert "ours_only" not in told


@pytest.mark.parametrize(
    ("line", "kind"),
    [("export items", ItemState), ("claims corrections", CorrectionState)],
    ids=["items", "corrections"],
)
def test_help_names_every_state_there_is(line: str, kind: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run([*line.split(), "--help"])
    assert f"Only {names_of(kind)} ones." in " ".join(capsys.readouterr().out.split())


def test_names_end_with_or() -> None:
    assert names_of(CorrectionState) == "proposed, approved, done or dismissed"
