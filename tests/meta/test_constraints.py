"""The pins are the same in both places, fit what is declared, and name no place to download from."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def pins() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def declared(path: Path) -> Iterator[Requirement]:
    document = read(path)
    project = document["project"]
    texts = list(project.get("dependencies", []))
    for extra in project.get("optional-dependencies", {}).values():
        texts += extra
    for group in document.get("dependency-groups", {}).values():
        texts += [entry for entry in group if isinstance(entry, str)]
    for text in texts:
        requirement = Requirement(text)
        if not canonicalize_name(requirement.name).startswith("samband"):
            yield requirement


def test_pip_and_uv_are_given_the_same_pins() -> None:
    command = [sys.executable, "scripts/constraints", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_every_declared_dependency_is_pinned_to_a_version_that_fits(path: Path) -> None:
    known = pins()
    for requirement in declared(path):
        found = known.get(canonicalize_name(requirement.name), [])
        versions = [str(next(iter(pin.specifier)).version) for pin in found]
        assert versions, f"{requirement.name} is not in constraints.txt; run scripts/constraints"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_what_is_installed_is_what_is_pinned() -> None:
    different = []
    for name, alternatives in pins().items():
        wanted = [pin for pin in alternatives if pin.marker is None or pin.marker.evaluate()]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if wanted and not wanted[0].specifier.contains(version):
            different.append(f"{name} {version}, pinned {wanted[0].specifier}")
    assert different == []


def test_pins_are_names_versions_and_markers_alone() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][^ ;/]*( ; [^/@:]+)?", line)] == []
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8")
