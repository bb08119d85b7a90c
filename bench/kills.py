"""Kill nights at random moments and look what is left: old outputs whole, the next night completes, nothing doubled.

    python bench/kills.py [--kills 20] [--shop demo] [--first-day 2026-11-22] [--seed 1]

One night runs undisturbed. Then each round starts `make nightly` for the next day, waits a random time, and sends
SIGKILL to a task process, to the scheduler, or to the command itself (in turn). It reads the warehouse as an analyst
would: what had been published before must be there to the row. It runs the night again to its end and looks again: no
key twice, no two live versions of a day, as many rows as the ledger says, no model registered twice from the same
inputs, nothing left running. A round is a day later than the one before, so that each night has work to lose.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
WAIT_FOR_VICTIM_S = 30.0
# Runs in a process of its own: settings belong to a home. Says what is wrong, and a digest of each published day.
LOOK = """
import json
from collections import Counter
from nightmarket import tracking, warehouse
from nightmarket.contracts import OUTPUTS
from nightmarket.errors import WarehouseMissing
wrong, digests = [], {}
def rows(sql, *given):
    return warehouse.read(sql, given).to_pylist()
try:
    have = {r["table_name"] for r in rows("select table_name from information_schema.tables where table_schema = 'outputs'")}
except WarehouseMissing:
    have = set()
for name in sorted(have & set(OUTPUTS)):
    key = ", ".join(dict.fromkeys((*OUTPUTS[name].key, "day")))
    doubled = rows(f"select {key} from outputs.{name} group by {key} having count(*) > 1")
    if doubled:
        wrong.append(f"{name}: {len(doubled)} keys doubled")
    live = rows("select day, rows from ops.publications where table_name = ? and superseded_at is null", name)
    if len({r["day"] for r in live}) < len(live):
        wrong.append(f"{name}: two live versions of a day")
    found = {r["day"]: r for r in rows(f"select day, count(*) as n, bit_xor(hash(t)) as h from outputs.{name} as t group by day")}
    for entry in live:
        n = found.get(entry["day"], {"n": 0})["n"]
        if n != entry["rows"]:
            wrong.append(f"{name} of {entry['day']}: {n} rows, the ledger says {entry['rows']}")
    if extra := set(found) - {r["day"] for r in live}:
        wrong.append(f"{name}: rows of days that nobody published: {sorted(map(str, extra))}")
    digests |= {f"{name} {day}": f"{r['n']} {r['h']}" for day, r in found.items()}
versions = 0
for task in ("ranking", "writer", "encoder"):
    inputs = Counter(v.tags.get("inputs_digest") for v in tracking.versions(task))
    versions += sum(inputs.values())
    wrong += [f"{task}: {n} versions of the same inputs" for n in inputs.values() if n > 1]
batches = rows("select sha256, count(*) as n from ops.landings where status = 'loaded' group by sha256 having count(*) > 1") if have else []
wrong += [f"a file landed {r['n']} times: {r['sha256']}" for r in batches]
print(json.dumps({"wrong": wrong, "versions": versions, "digests": digests}))
"""


def look(env: dict[str, str]) -> dict[str, Any]:
    """What an analyst sees now; a reader that fails is itself what is wrong."""
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        return {"wrong": [f"reading failed: {done.stderr[-500:]}"], "versions": -1, "digests": {}}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def victims(root: psutil.Process, kind: str) -> list[psutil.Process]:
    """What a kill of this kind would hit now: a task's process, the scheduler, or make with the command below it."""
    if kind == "command":
        return [root, *root.children()]
    found = []
    for member in root.children(recursive=True):
        try:
            line = " ".join(member.cmdline())
        except psutil.Error:
            continue
        # The executor's workers have "LocalExecutor" in their title; a task's process has its id alone.
        is_task = line.startswith("airflow worker -- ") and "LocalExecutor" not in line
        if (kind == "task" and is_task) or (kind == "scheduler" and "-m airflow scheduler" in line):
            found.append(member)
    return found[:1]


def strike(night: subprocess.Popen[bytes], kind: str) -> int:
    """Kill as soon as there is something to hit; says how many processes died."""
    if night.poll() is not None:
        return 0
    deadline, root = time.monotonic() + WAIT_FOR_VICTIM_S, psutil.Process(night.pid)
    while night.poll() is None and time.monotonic() < deadline:
        struck = 0
        for target in victims(root, kind):
            try:
                target.send_signal(signal.SIGKILL)
                struck += 1
            except psutil.Error:
                continue
        if struck:
            return struck
        time.sleep(0.02)
    return 0


def main() -> None:
    """Kill as often as asked; exit 1 when something broke or a night after a kill did not complete."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--shop", default="demo")
    options.add_argument("--first-day", type=date.fromisoformat, default=date(2026, 11, 22))
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--longest", type=float, default=42.0, help="seconds into a night of the latest kill"
    )
    chosen = options.parse_args()
    rng = random.Random(chosen.seed)
    work = Path(tempfile.mkdtemp(prefix="nightmarket-kills-"))
    env = dict(os.environ) | {"NIGHTMARKET_HOME": str(work / "var"), "NIGHTMARKET_SHOP": chosen.shop}
    day, broken, n = chosen.first_day, 0, 0

    def command() -> list[str]:
        return ["make", "nightly", f"SHOP={chosen.shop}", f"DAY={day}"]

    with (work / "log.txt").open("ab") as log:
        first = subprocess.run(command(), cwd=ROOT, env=env, stdout=log, stderr=log)
        before = look(env)
        print(
            f"first night: exit {first.returncode}, {before['wrong'] or 'whole'}; log {work}/log.txt",
            flush=True,
        )
        while n < chosen.kills:
            day += timedelta(days=1)
            moment, kind = rng.uniform(2, chosen.longest), ("task", "scheduler", "command")[n % 3]
            night = subprocess.Popen(
                command(), cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                night.wait(moment)
            began = time.monotonic()
            struck = strike(night, kind)
            moment += time.monotonic() - began
            status = night.wait(timeout=900)
            if not struck:
                before = look(env)
                print(f"   {day} the night was over before {moment:.1f} s; the next one", flush=True)
                continue
            after = look(env)
            lost = [key for key, value in before["digests"].items() if after["digests"].get(key) != value]
            began = time.monotonic()
            again = subprocess.run(command(), cwd=ROOT, env=env, stdout=log, stderr=log, timeout=900)
            took, whole = time.monotonic() - began, look(env)
            lost += [key for key, value in before["digests"].items() if whole["digests"].get(key) != value]
            wrong = [*after["wrong"], *whole["wrong"], *(f"{key} changed" for key in lost)]
            if again.returncode:
                wrong.append(f"the next night ended with {again.returncode}")
            if not any(key.endswith(str(day)) for key in whole["digests"]):
                wrong.append(f"nothing was published for {day}")
            broken += bool(wrong)
            n += 1
            new = len(after["digests"]) - len(before["digests"])
            print(
                f"{n:2d} {day} {kind:9s} at {moment:5.1f} s: {struck} killed, exit {status}, {new} tables already out"
                f" | again: exit {again.returncode} in {took:.0f} s, {whole['versions']} versions"
                f" | {'; '.join(wrong) or 'whole'}",
                flush=True,
            )
            before = whole
    left = [p.pid for p in psutil.process_iter(["cmdline", "environ"]) if is_left(p.info, work)]
    print(
        f"{chosen.kills - broken} of {chosen.kills} kills left everything whole; processes left: {left or 'none'}"
    )
    raise SystemExit(bool(broken or left))


def is_left(info: dict[str, Any], work: Path) -> bool:
    """Whether a process belongs to the home that was killed in."""
    return str(work) in " ".join(info["cmdline"] or []) or str(work) in (info["environ"] or {}).get(
        "NIGHTMARKET_HOME", ""
    )


if __name__ == "__main__":
    main()
