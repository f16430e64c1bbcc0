"""Every command the documentation tells people to type exists, with the options it is given."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.exceptions import TyperException

from samband.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
BLOCK = re.compile(r"^```(?:sh|bash|shell|console|text)?\n(.*?)^```|^((?:    .+\n)+)", re.MULTILINE | re.DOTALL)
STARTS = (["samband"], ["python3", "run.py"], ["python", "run.py"], ["uv", "run", "samband"], ["./run.py"])


def commands(page: Path) -> Iterator[list[str]]:
    """Gives the words after ``samband`` of every command line in the page's code blocks."""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        for line in (block[1] or block[2]).splitlines():
            try:
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            for start in STARTS:
                if words[: len(start)] == start and len(words) > len(start):
                    yield words[len(start) :]


def problem(words: list[str]) -> str | None:
    """Says what is wrong with a command line, or None. Nothing is run: only the arguments are read."""
    if words[0] == "test" or words == ["check"]:
        return None  # run.py's own
    words = list(itertools.takewhile(lambda word: word not in ("|", ">", "2>", "&", "&&", "<"), words))
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return (
                None if words and words[0].startswith("--") else f"there is no command {' '.join(words[:1])}".rstrip()
            )
        command = command.commands[words.pop(0)]
    try:
        command.make_context("samband", words)
    except TyperException as error:
        return error.format_message()
    except typer.Exit:
        return None  # --help
    return None


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.exists()], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_of_the_page_exist(page: Path) -> None:
    wrong = {" ".join(words): problem(words) for words in commands(page)}
    assert {line: reason for line, reason in wrong.items() if reason} == {}


def test_wrong_command_would_be_noticed() -> None:
    assert problem(["synk", "demo"]) == "there is no command synk"
    assert problem(["sync", "demo", "dynamics365", "--fully"]) is not None
    assert problem(["sync", "demo/dynamics365"]) is not None
    assert problem(["runs", "list", "demo", "--limit", "5"]) is None
