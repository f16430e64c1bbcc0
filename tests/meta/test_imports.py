"""Who may import whom is written in .importlinter, and holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_import_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_plugin_is_held_to_the_contracts() -> None:
    contracts = (ROOT / ".importlinter").read_text(encoding="utf-8")
    packages = [path.parent.name for path in ROOT.glob("plugins/*/src/*/__init__.py")]
    assert packages
    assert [package for package in packages if package not in contracts] == []
