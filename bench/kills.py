"""Kill nights at random moments and look what is left: old outputs whole, the next night completes, nothing doubled.

    python bench/kills.py [--kills 20] [--shop PATH] [--seed 1]

Each round starts `make nightly`, waits a random time, and sends SIGKILL to a task process, to the scheduler, or to the
command itself (in turn). Then it reads the warehouse as an analyst would and checks the invariants, runs the night
again to its end, and checks them again. Default shop: the tests' tiny shop, whose night is short, so that kills land
everywhere in it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
INVARIANTS = """
import json
from nightmarket import warehouse
from nightmarket.contracts import OUTPUTS
from nightmarket.errors import WarehouseMissing
wrong = []
try:
    have = {(r["table_schema"], r["table_name"]) for r in warehouse.read("select table_schema, table_name from information_schema.tables").to_pylist()}
except WarehouseMissing:
    have = set()
for name, table in OUTPUTS.items():
    if ("outputs", name) not in have:
        continue
    key = ", ".join((*table.key, "day"))
    doubled = warehouse.read(f"select count(*) as n from (select {key} from outputs.{name} group by {key} having count(*) > 1)")["n"][0].as_py()
    if doubled:
        wrong.append(f"{name}: {doubled} keys doubled")
    for live in warehouse.read("select day, rows from ops.publications where table_name = ? and superseded_at is null", [name]).to_pylist():
        n = warehouse.read(f"select count(*) as n from outputs.{name} where day = ?", [live["day"]])["n"][0].as_py()
        if n != live["rows"]:
            wrong.append(f"{name} {live['day']}: {n} rows, the ledger says {live['rows']}")
    twice = warehouse.read("select count(*) as n from (select day from ops.publications where table_name = ? and superseded_at is null group by day having count(*) > 1)", [name])["n"][0].as_py()
    if twice:
        wrong.append(f"{name}: two live versions of a day")
versions = []
import nightmarket.tracking as tracking
try:
    versions = [str(row) for row in tracking.models()]
except Exception as error:
    versions = [repr(error)]
print(json.dumps({"wrong": wrong, "versions": len(versions)}))
"""


def look(env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", INVARIANTS], cwd=ROOT, env=env, capture_output=True, text=True
    )
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else f"FAILED: {done.stderr[-500:]}"


def victims(root: psutil.Process, kind: str) -> list[psutil.Process]:
    """Processes below the command whose command line fits the kind of victim."""
    words = {
        "task": ("airflow worker", "task supervisor", "airflow task"),
        "scheduler": ("airflow scheduler", "scheduler"),
    }[kind]
    found = []
    for member in root.children(recursive=True):
        try:
            line = " ".join(member.cmdline())
        except psutil.Error:
            continue
        if any(word in line.lower() for word in words):
            found.append(member)
    return found


def main() -> None:
    """Kill as often as asked; exit 1 when an invariant broke or a night after a kill did not complete."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--shop")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--longest", type=float, default=60.0, help="seconds into the night of the latest kill"
    )
    chosen = options.parse_args()
    rng = random.Random(chosen.seed)
    work = Path(tempfile.mkdtemp(prefix="nightmarket-kills-"))
    shop = chosen.shop
    if shop is None:
        sys.path.insert(0, str(ROOT / "tests"))
        from conftest import write_tiny_shop

        shop = str(write_tiny_shop(work / "tiny"))
    env = dict(os.environ) | {"NIGHTMARKET_HOME": str(work / "var"), "NIGHTMARKET_SHOP": shop}
    day, broken = date(2026, 3, 2), 0
    for n in range(chosen.kills):
        command = ["make", "nightly", f"SHOP={shop}", f"DAY={day}"]
        with (work / "log.txt").open("ab") as log:
            night = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            moment, kind = rng.uniform(2, chosen.longest), ("task", "scheduler", "command")[n % 3]
            time.sleep(moment)
            struck = 0
            if night.poll() is None:
                root = psutil.Process(night.pid)
                targets = (
                    victims(root, kind) if kind != "command" else [root, *root.children(recursive=False)]
                )
                for target in targets[:1] if kind == "scheduler" else targets:
                    try:
                        target.send_signal(signal.SIGKILL)
                        struck += 1
                    except psutil.Error:
                        continue
            killed_status = night.wait(timeout=900)
            after = look(env)
            again = subprocess.run(
                command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, timeout=900
            )
        whole = look(env)
        bad = '"wrong": []' not in after or '"wrong": []' not in whole or again.returncode != 0
        broken += bad
        print(
            f"{n + 1:2d} {kind:9s} at {moment:5.1f} s ({struck} killed, exit {killed_status}): {after} | again: exit {again.returncode} {whole}{'  <-- BROKEN' if bad else ''}",
            flush=True,
        )
        day += timedelta(days=1)
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(work) in " ".join(p.info["cmdline"] or [])]
    print(
        f"{chosen.kills - broken} of {chosen.kills} kills left everything whole; processes left running: {left}; log: {work / 'log.txt'}"
    )
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
