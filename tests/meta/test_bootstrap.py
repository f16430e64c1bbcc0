"""run.py: what it installs, and that an old Python can read it far enough to say what is wrong."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "run.py"


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("samband_bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_old_python_can_read_it() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_it_needs_the_standard_library_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= sys.stdlib_module_names


def test_each_level_installs_what_the_one_before_it_does(bootstrap: ModuleType) -> None:
    run, test, check = (bootstrap._requirements(level) for level in ("run", "test", "check"))
    editable = [str(path.parent) for path in ROOT.glob("plugins/*/pyproject.toml")]
    assert set(editable) <= set(run)
    assert not [entry for entry in run if entry.startswith(("pytest", "ruff", "mypy"))]
    assert "hypothesis" in " ".join(test)
    assert "ruff" not in " ".join(test)
    assert set(test) < set(check)
    assert {"ruff", "mypy"} <= {entry.partition(">")[0] for entry in check}


def test_changed_pins_are_noticed(bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", tmp_path / "constraints.txt")
    before = bootstrap._fingerprint()
    assert bootstrap._fingerprint() == before
    with (tmp_path / "constraints.txt").open("a") as file:
        file.write("something==1\n")
    assert bootstrap._fingerprint() != before
