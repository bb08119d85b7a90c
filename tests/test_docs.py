"""Pages that can be generated are up to date, and what people type stands in the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from nightmarket.contracts import LANDING, OUTPUTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_generated_pages_are_what_would_be_written() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_readme_names_every_dag_output_and_command() -> None:
    dags = sorted(path.stem for path in (ROOT / "dags").glob("*.py"))
    assert dags == [
        "ask_in_batch", "bake_off", "build_warehouse", "finetune_encoder", "finetune_models", "finetune_writer", "follow_events", "refresh_product_copy", "refresh_profiles", "refresh_recommendations",
        "review_copy",
    ]  # fmt: skip
    outputs = [table.qualified for table in OUTPUTS.values()]
    assert len(outputs) == 8
    commands = ["make nightly", "make test", "make up", "make down", "make check"]
    commands += [
        f"nightmarket {verb}" for verb in ("run", "query", "models", "doctor", "follow", "rules check")
    ]
    assert [name for name in [*dags, *outputs, *commands] if name not in README] == []


def test_the_tables_page_has_every_landing_and_output_table() -> None:
    page = (ROOT / "docs" / "tables.md").read_text()
    assert len(LANDING) == 13
    assert [t for t in LANDING if f"### `{t}`" not in page] == []
    assert [t for t in OUTPUTS if f"### `outputs.{t}`" not in page] == []


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert len(pages) > 8
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_decisions_are_numbered_and_have_context_choice_and_cost() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1)) and len(records) >= 6
    for path in records:
        text = path.read_text()
        assert all(f"**{part}" in text or f"## {part}" in text for part in ("Context", "Choice", "Cost")), (
            path.name
        )
