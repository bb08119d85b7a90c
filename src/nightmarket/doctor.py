"""What is installed, configured and reachable on this machine, and what to do about what is not.

Each examination is one function that gives findings; none of them changes anything. Not here: mending.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from nightmarket.errors import ModelRefused, NightmarketError, SettingMissing
from nightmarket.settings import Settings, get_settings

NEEDED_GB = 3.0
"""A night of the largest packaged shop leaves some 2 GB; below this a publish may not find room."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `bad` means that a night cannot run, `warn` that something deserves a look."""

    what: str
    state: Literal["ok", "warn", "bad"]
    found: str
    todo: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which they matter."""
    settings = get_settings()
    return [
        *_python(),
        *_packages(settings),
        *_weights(),
        *_writer(),
        *_disk(settings),
        *_state(settings),
        *_at_work(settings),
    ]


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("Python", "ok", found)
    else:
        yield Finding(
            "Python", "bad", found, "Make the environment with Python 3.11: make setup BASE_PYTHON=python3.11"
        )


def _packages(settings: Settings) -> Iterator[Finding]:
    lock = settings.project / "requirements.txt"
    if not lock.exists():
        yield Finding(
            "Packages",
            "warn",
            f"no {lock} to compare with",
            "Run from the checkout, or set NIGHTMARKET_PROJECT.",
        )
        return
    pins = [
        line.split("==")
        for line in lock.read_text().splitlines()
        if "==" in line and not line.startswith("#")
    ]
    wrong = []
    for name, wanted in pins:
        try:
            has = version(name).split("+")[0]
        except PackageNotFoundError:
            has = "missing"
        if has != wanted.strip():
            wrong.append(f"{name} {has} (lock: {wanted.strip()})")
    if wrong:
        shown = ", ".join(wrong[:6]) + (f" and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        yield Finding("Packages", "bad", shown, "rm .venv/.nightmarket-*; make setup")
    else:
        yield Finding("Packages", "ok", f"{len(pins)}, all as locked")


def _weights() -> Iterator[Finding]:
    from nightmarket import encoder, llm

    for weights in (encoder.MINILM, llm.SMOLLM2):
        try:
            path = weights.verify()
        except ModelRefused as error:
            yield Finding(f"Weights {weights.name}", "bad", str(error), "make setup")
        else:
            yield Finding(
                f"Weights {weights.name}", "ok", f"{path.stat().st_size / 1e6:.0f} MB, digest as pinned"
            )


def _writer() -> Iterator[Finding]:
    from nightmarket import llm

    try:
        writer = llm.open_generator()
    except SettingMissing as error:
        yield Finding("Writer", "bad", str(error), "See .env.example.")
        return
    except ModelRefused as error:
        is_ours = get_settings().generator == "local"
        todo = (
            "nightmarket rollback writer" if is_ours else "See NIGHTMARKET_GENERATOR_MODEL in .env.example."
        )
        yield Finding("Writer", "bad", str(error), todo)
        return
    if isinstance(writer, (llm.LocalGenerator, llm.NetworkGenerator)):
        yield Finding("Writer", "ok", f"{writer.name}, in this process")
        return
    answers, said = writer.look()
    todo = "See NIGHTMARKET_ENDPOINT_* in .env.example."
    if isinstance(writer, llm.BatchGenerator):
        todo = "See docs/operations.md, In batches at half the price."
    # A night runs without its writer: what an endpoint does not write is written by template.
    yield Finding("Writer", "ok" if answers else "warn", said, "" if answers else todo)


def _disk(settings: Settings) -> Iterator[Finding]:
    home = settings.home.expanduser().resolve()
    there = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    state: Literal["ok", "bad"] = "ok" if free > NEEDED_GB else "bad"
    todo = "" if state == "ok" else f"Free some space under {there}, or set NIGHTMARKET_HOME to another disk."
    yield Finding("Disk", state, f"{free:.1f} GB free under {there}", todo)


def _state(settings: Settings) -> Iterator[Finding]:
    from nightmarket import warehouse

    size = sum(p.stat().st_size for p in settings.state.rglob("*") if p.is_file() and not p.is_symlink())
    where = f"{settings.state} ({size / 1e6:.0f} MB)"
    if not (settings.state / "readers" / "warehouse.duckdb").exists():
        yield Finding(
            "Warehouse", "warn", f"shop {settings.shop} has none yet", f"make nightly SHOP={settings.shop}"
        )
        return
    try:
        last = warehouse.read(
            "select max(day) as day, count(distinct table_name) as n from ops.publications"
        ).to_pylist()[0]
    except NightmarketError as error:
        yield Finding("Warehouse", "bad", str(error), "Run the night again; the readers' copy is made anew.")
        return
    yield Finding("Warehouse", "ok", f"{where}; {last['n']} tables published, last for {last['day']}")


def _at_work(settings: Settings) -> Iterator[Finding]:
    from nightmarket.errors import NightFailed
    from nightmarket.scheduler import only_one
    from nightmarket.scheduler.processes import airflow_home, served

    if address := served("airflow"):
        yield Finding("At work", "ok", f"make up serves Airflow at {address}")
        return
    if not settings.home.expanduser().exists():
        return
    try:
        with only_one(settings):
            if (airflow_home(settings) / "processes.json").exists():
                yield Finding(
                    "At work",
                    "warn",
                    "a killed night left processes",
                    "The next night ends them, or: make down",
                )
            else:
                yield Finding("At work", "ok", "nothing")
    except NightFailed:
        pid = (settings.home.expanduser() / "night.lock").read_text().strip()
        yield Finding("At work", "ok", f"a night (process {pid})")
