"""What a night costs on which few customers bought something, against one on which all lists are made anew.

    python bench/touched.py --shop PATH [--share 0.01] [--home DIR] [--json FILE]

Builds the shop's warehouse and trains its ranker first, where that home has none yet. Publishes the lists of the extracts'
day, writes extracts of the next day in which a share of the customers bought one more product, and measures
`recommendations.make` for that day twice, each time in a process of its own that keeps to the threads which tasks have
(`NIGHTMARKET_THREADS`): as it is, and with all lists expired. Texts are embedded before, so that the full night is not made
dear by what is done once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]


def prepared(state: Path) -> date:
    """The day of the home's extracts; makes them, and a champion, where there are none."""
    command = [sys.executable, "-m", "nightmarket.cli", "run", "--only", "build_warehouse,finetune_models"]
    if not list((state / "lake" / "purchases").glob("day=*")):
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    days = sorted(p.name.removeprefix("day=") for p in (state / "lake" / "purchases").glob("day=*"))
    return date.fromisoformat(days[0])


def publish(day: date) -> None:
    """The lists of the first day, as a night publishes them."""
    from nightmarket import products
    from nightmarket.products.recommendations import PRODUCT

    for step in (products.generate, products.check, products.publish):
        step(PRODUCT, day, f"bench-{day}")


def one_more(day: date, share: float) -> int:
    """Extracts of the next day, in which a share of the customers bought one more product; says how many."""
    from nightmarket import lake
    from nightmarket.transform import MARTS

    nxt = day + timedelta(days=1)
    for name, key in MARTS.items():
        if name != "purchases" and lake.manifest(name, day):
            lake.write(name, nxt, lake.read(name, day), key=key)
    purchases = lake.read("purchases", day)
    random = np.random.default_rng(7)
    customers = purchases["customer_id"].unique().to_pylist()
    picked = random.choice(len(customers), max(1, round(share * len(customers))), replace=False)
    some = set(customers[i] for i in picked)
    at = [purchases["customer_id"].index(c).as_py() for c in sorted(some)]
    more = purchases.take(pa.array(at))
    products = purchases["product_id"].unique()
    more = more.set_column(
        more.column_names.index("product_id"), "product_id",
        products.take(pa.array(random.integers(0, len(products), more.num_rows))).cast(pa.string()),
    )  # fmt: skip
    kind = more.schema.field("ordered_at").type
    more = more.set_column(
        more.column_names.index("ordered_at"), "ordered_at", pa.array([day] * more.num_rows, pa.date32()).cast(pa.timestamp("us")).cast(kind)
    )  # fmt: skip
    lake.write(
        "purchases", nxt, pa.concat_tables([purchases, more.cast(purchases.schema)]), key=MARTS["purchases"]
    )
    return len(some)


def made(day: date) -> dict[str, object]:
    """One call of `make` in this process: seconds with all it imports and loads, those of the imports, and what it made."""
    started = time.perf_counter()
    import torch  # noqa: F401

    from nightmarket.products import recommendations

    imported = time.perf_counter() - started
    result = recommendations.make(day, "bench")
    seconds = time.perf_counter() - started
    rows = {name: table.num_rows for name, table in result.rows.items()}
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(time.process_time(), 2), "imports": round(imported, 2),
        "rows": rows, "note": result.outcome.note,
    }  # fmt: skip


def main() -> None:
    """Run the three nights and print a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shop", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    given = parser.parse_args()
    from nightmarket.settings import choose_shop

    settings = choose_shop(given.shop, given.home)
    if given.make:
        print(json.dumps(made(date.fromisoformat(given.make))))
        return
    day = prepared(settings.state)
    publish(day)
    touched = one_more(day, given.share)
    command = [sys.executable, __file__, "--shop", given.shop, "--make", str(day + timedelta(days=1))]
    as_tasks = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(settings.threads)
    )
    told: dict[str, object] = {"customers_touched": touched}
    for name, extra in (("touched", {}), ("all", {"NIGHTMARKET_LISTS_EXPIRE_AFTER_DAYS": "1"})):
        found = subprocess.run(
            command, env=os.environ | as_tasks | extra, cwd=ROOT, check=True, capture_output=True, text=True
        )
        told[name] = json.loads(found.stdout.splitlines()[-1])
        print(name, told[name])
    told["share"], told["share_of_cpu"] = (
        round(told["touched"][what] / told["all"][what], 4)  # type: ignore[index]
        for what in ("seconds", "cpu_seconds")
    )
    work = {name: told[name]["seconds"] - told[name]["imports"] for name in ("touched", "all")}  # type: ignore[index]
    told["share_of_work"] = round(work["touched"] / work["all"], 4)
    print(
        "share of the full night's cost:",
        told["share"],
        "of processor seconds:",
        told["share_of_cpu"],
        "without what a process imports:",
        told["share_of_work"],
    )
    if given.json:
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
