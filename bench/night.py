"""Measure whole nights of a shop: the first, the same again, the next day; wall, memory, what was made anew.

    python bench/night.py [--shop demo] [--nights first,again,next] [--home DIR] [--json FILE]

Runs `make nightly` as a user would, each night in its own process tree, on a home of its own. Prints for each: wall seconds
of the command, greatest memory of its process tree, seconds from the first step's start to the last step's end and
how many of them no step was running, whether the published tables are those of before, and what `ops.runs` says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]


def run_measured(command: list[str], env: dict[str, str], log: Path) -> tuple[int, float, float]:
    """Exit status, wall seconds and greatest memory (GiB, sum of resident sets counted by unique pages) of a command."""
    started = time.perf_counter()
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        root = psutil.Process(process.pid)
        while not done.wait(0.5):
            total = 0
            try:
                members = [root, *root.children(recursive=True)]
            except psutil.Error:
                return
            for member in members:
                try:
                    total += member.memory_full_info().pss
                except (psutil.Error, AttributeError):
                    continue
            peak[0] = max(peak[0], total / 2**30)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    status = process.wait()
    done.set()
    watcher.join(timeout=2)
    return status, time.perf_counter() - started, peak[0]


def ask(env: dict[str, str]) -> dict[str, object]:
    """What the ledgers say after a night, read the way an analyst would."""
    code = """
import json
from nightmarket import warehouse
q = lambda s: warehouse.read(s).to_pylist()
live = q("select table_name, day, rows, content_hash from ops.publications where superseded_at is null order by all")
night = q("select max(day) as d from ops.runs")[0]["d"]
runs = q(f"select dag_id, task_id, state, started_at, duration_s, rows_in, rows_out, tokens_out, note from ops.runs where day = '{night}' order by started_at")
gates = q("select verdict, count(*) as n from ops.gates group by 1 order by 1")
promotions = q("select to_version, decision from ops.promotions")
print(json.dumps({"live": live, "night": night, "runs": runs, "gates": gates, "promotions": promotions}, default=str))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def idle(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds from the first step's start to the last step's end, and those in which no step was running."""
    spans = sorted(
        (datetime.fromisoformat(r["started_at"]).timestamp(), r["duration_s"] or 0.0) for r in runs
    )
    if not spans:
        return 0.0, 0.0
    began = end = spans[0][0]
    gaps = 0.0
    for start, seconds in spans:
        gaps, end = gaps + max(start - end, 0.0), max(end, start + seconds)
    return end - began, gaps


def main() -> None:
    """Run the nights asked for and print what they cost."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shop", default="demo")
    options.add_argument("--nights", default="first,again,next", help="any of first, again, next, in order")
    options.add_argument("--home", type=Path, help="default: a temporary folder")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    home = chosen.home or Path(tempfile.mkdtemp(prefix="nightmarket-bench-"))
    env = dict(os.environ) | {"NIGHTMARKET_HOME": str(home), "NIGHTMARKET_SHOP": chosen.shop}
    results: list[dict[str, object]] = []
    day: date | None = None
    before: object = ask(env)["live"] if (home / "shops").exists() else None
    for name in chosen.nights.split(","):
        command, began = (
            ["make", "nightly", f"SHOP={chosen.shop}"],
            str(datetime.now(UTC).replace(tzinfo=None)),
        )
        if name == "next" and day:
            command.append(f"DAY={day + timedelta(days=1)}")
        status, wall, peak = run_measured(command, env, home.parent / f"{home.name}.log")
        found = ask(env) if (home / "shops").exists() else {}
        if found:
            day = date.fromisoformat(str(found["night"]))
        results.append(
            {"night": name, "status": status, "wall_s": round(wall, 1), "peak_gib": round(peak, 2), **found}
        )
        print(f"{name}: exit {status}, {wall:.0f} s, {peak:.1f} GiB", flush=True)
        print(f"    published tables byte-identical to before: {found.get('live') == before}", flush=True)
        before = found.get("live")
        runs = [run for run in found.get("runs", []) if run["started_at"] > began]  # type: ignore[attr-defined]
        night_s, idle_s = idle(runs)
        print(
            f"    first step to last {night_s:.1f} s, {idle_s:.1f} s of them with no step running", flush=True
        )
        for run in runs:
            print(
                f"    {run['dag_id']}.{run['task_id']}: {run['state']} {run['duration_s'] or 0:.1f} s, in {run['rows_in']}, out {run['rows_out']} {run['note'] or ''}"
            )
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))
    print(f"home: {home}")


if __name__ == "__main__":
    main()
