"""What the documentation claims is there: files it names, links it makes, and the plugin it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/*.md")])
EXAMPLE = ROOT / "tests/fixtures/samband-example/src/samband_example/plugin.py"


def test_plugin_in_the_readme_is_the_one_that_is_tested() -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert [EXAMPLE.read_text("utf-8")] == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_tests_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [
        name for name in re.findall(r"`((?:tests|scripts|docs|plugins)/[\w./-]+)`", text) if not (ROOT / name).exists()
    ]
    assert [] == missing
