"""The shape of the code: imports point one way, one importer for each library, no attics, no stray environment."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nightmarket"

# From the ground up: a module may import from its own layer and from those before it.
LAYERS = [
    {"settings", "errors", "contracts"},
    {"ledger", "lake", "metrics", "compute"},
    {"warehouse", "tracking", "weights", "grammar"},
    {"encoder", "llm"},
    {"shops", "landing", "transform", "quality", "suites", "guard", "prompts", "ranking", "merchandising"},
    {"products"},
    {"training"},
    {"night", "microbatch"},
    {"orchestration", "scheduler", "doctor", "cli"},
]
SOLE_IMPORTERS = {
    "airflow": {"orchestration"},
    "cosmos": {"orchestration"},
    "mlflow": {"tracking"},
    "great_expectations": {"quality"},
    "xllamacpp": {"llm"},
    "openai": {"llm"},
    "sentence_transformers": {"encoder"},
    "dbt": {"transform"},
    "ray": {"compute"},
}


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(SOURCE.rglob("*.py")))


def noun(path: Path) -> str:
    """The module or package directly under nightmarket that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module a file imports, anywhere in it, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def test_every_module_has_a_layer() -> None:
    nouns = {noun(path) for path in modules()} - {"__init__"}
    assert "warehouse" in nouns and len(nouns) > 15
    assert nouns == set().union(*LAYERS)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    if noun(path) == "__init__":
        return
    allowed: set[str] = set()
    for layer in LAYERS:
        allowed |= layer
        if noun(path) in layer:
            break
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("nightmarket.")}
    assert ours - {"__version__"} <= allowed


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_a_library_behind_a_seam_has_one_importer(library: str) -> None:
    importers = {
        noun(path) for path in modules() if any(name.split(".")[0] == library for name in imported(path))
    }
    assert importers == SOLE_IMPORTERS[library]


def test_only_settings_reads_the_environment() -> None:
    # Starting other programs and setting threads is writing; reading is for settings alone.
    readers = {
        str(path.relative_to(SOURCE))
        for path in modules()
        if any(
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            and node.attr == "getenv"
            for node in ast.walk(tree(path))
        )
        or "os.environ.get(" in path.read_text()
    }
    assert readers <= {"settings.py"}


def test_no_attic() -> None:
    attics = {"utils", "util", "helpers", "helper", "common", "misc"}
    elsewhere = {".git", ".venv", "var"}
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in elsewhere]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    assert len(files) > 250
    assert [file for file in files if file.stem in attics] == []


def test_every_module_opens_with_its_charter() -> None:
    without = [str(p) for p in modules() if p.stat().st_size and not ast.get_docstring(tree(p))]
    assert without == []
