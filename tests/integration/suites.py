"""Plugins in a directory of their own, changed as a careless author would, and what the contract suite says of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

__all__ = ["Report", "Variant", "check_variant", "copy_of", "run_pytest", "run_suite"]

SLOW = "not silence and not slow-body"
_LIMIT_S = 120


@dataclass(frozen=True)
class Variant:
    """One way to break an example: what is written instead of what, and which tests must notice.

    Attributes:
        name: For people.
        file: Of the plugin's package.
        old: What stands there.
        new: What is written instead.
        fails: Exactly the tests that fail; a name without brackets stands for all of its cases.
        says: Stands in one of the messages.
        also: A second file, old and new.
        can_fetch: For the example that can be made to fetch.
    """

    name: str
    file: str
    old: str
    new: str
    fails: frozenset[str]
    says: str
    also: tuple[str, str, str] | None = None
    can_fetch: bool = False

    def edits(self) -> list[tuple[str, str, str]]:
        return [(self.file, self.old, self.new), *([self.also] if self.also else [])]


@dataclass(frozen=True)
class Report:
    passed: int
    skipped: set[str]
    failed: Mapping[str, str]


def copy_of(example: Path, tmp_path: Path) -> Path:
    """Gives a copy that Python takes for installed: sources on the path, with the metadata a wheel would have."""
    project = tmp_path / example.name
    shutil.copytree(example, project, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    declared = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = project / "src" / f"{package_of(project)}-{declared['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: {declared['version']}\n", encoding="utf-8"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in declared["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    return project


def package_of(project: Path) -> str:
    """Gives the name of the plugin's package."""
    return project.name.replace("-", "_")


def check_variant(project: Path, variant: Variant) -> None:
    """Breaks the plugin and fails unless the suite notices exactly that, and says where it is written."""
    package = package_of(project)
    for file, old, new in variant.edits():
        _rewrite(project / "src" / package / file, old, new)
    report = run_suite(project, "-k", SLOW, "-p", "no:randomly")
    by_name = {name if name in variant.fails else name.partition("[")[0] for name in report.failed}
    assert by_name == variant.fails
    assert any(variant.says in message for message in report.failed.values())
    assert all("see:" in message for message in report.failed.values())


def _rewrite(path: Path, old: str, new: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1
    # A list that both modules can reach stands for whatever a careless author keeps in a global.
    header = f"import samband\nfrom {path.parent.name}.kept import kept\n"
    path.write_text(header + source.replace(old, new), encoding="utf-8")
    path.with_name("kept.py").write_text("kept = []\n", encoding="utf-8")


def run_suite(project: Path, *arguments: str) -> Report:
    """Runs the plugin's own tests and gives what became of each."""
    results = project / "results.xml"
    finished = run_pytest(project, f"--junitxml={results}", *arguments)
    assert results.exists(), finished.stdout + finished.stderr
    passed, skipped, failed = 0, set(), {}
    for case in ElementTree.parse(results).iter("testcase"):
        name = case.attrib["name"]
        trouble = [*case.findall("failure"), *case.findall("error")]
        if trouble:
            failed[name] = "\n".join(f"{one.get('message')}\n{one.text}" for one in trouble)
        elif case.find("skipped") is not None:
            skipped.add(name)
        else:
            passed += 1
    return Report(passed, skipped, failed)


def run_pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the plugin's own tests in a process of their own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env={"PYTHONPATH": str(project / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
