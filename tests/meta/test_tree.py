"""The repository speaks of the product alone: no machine, no person's directory, no registry."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {"__pycache__", "samband-data", "dist", "build", "node_modules", "uv.lock"}
OUR_DOTS = {".ci", ".github", ".gitignore", ".importlinter"}
FORBIDDEN = {
    "the address of a package registry": re.compile(
        rb"(?:files\.python" rb"hosted|pypi\.py" rb"thon)\.org|/simp" rb"le/"
    ),
    "somebody's home directory": re.compile(rb"(?<![\w.])/(?:ro" rb"ot|home/[a-z]+|Use" rb"rs/[A-Za-z]+)/"),
    "a checkout's place on one machine": re.compile(rb"(?<![\w./])/wo" rb"rk/"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE K" rb"EY-----\s+[A-Za-z0-9+/]{60}"),
}


def files() -> Iterator[Path]:
    """Gives what is, or would be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    paths = [ROOT / name for name in names if name] or list(ROOT.rglob("*"))
    for path in paths:
        parts = set(path.relative_to(ROOT).parts)
        hidden = {part for part in parts if part.startswith(".")} - OUR_DOTS
        if path.is_file() and not hidden and NOT_OURS.isdisjoint(parts):
            yield path


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = []
    for path in files():
        match = FORBIDDEN[what].search(path.read_bytes())
        if match is not None:
            found.append(f"{path.relative_to(ROOT)}: {match[0].decode('utf-8', 'replace')[:60]}")
    assert found == []


def test_what_is_to_be_run_can_be_run() -> None:
    for name in ("run.py", "scripts/check", "scripts/constraints", ".ci/run"):
        assert (ROOT / name).stat().st_mode & 0o111, name


def test_no_file_hides_a_missing_name_by_its_length() -> None:
    code = [*ROOT.glob("core/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    long = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in code}
    assert {name: lines for name, lines in long.items() if lines > 650} == {}
