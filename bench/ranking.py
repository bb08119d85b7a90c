"""The rankers against each other on any landing folder: leave-one-out, full ranking, one process a model.

    python bench/ranking.py --shop PATH [--models popularity,ease,mixture] [--seed 7] [--shuffle] [--refit] [--json FILE]

Each customer's last purchase is the test, the one before it validation; a product's later purchases by the same customer
are left out. Purchases of one instant stand in file order, or shuffled with --shuffle. Hyper-parameters are chosen on
validation purchases and the test is asked once. Models are fitted on what came before validation, as published tables
do it, and asked with the validation purchase in the history; --refit lets them learn from it too, as a shop's would.

Prints for each model Recall and NDCG at 5, 10 and 20 with products bought before left out (and NDCG@10 with them),
coverage, seconds to tune and fit, greatest memory, customers per second (top 100), and paired intervals of NDCG@10.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Blocks of scores are made and dropped all the time: do not give their pages back in between.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "2000000000")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "4000000000")

import duckdb
import numpy as np
import pyarrow as pa

MODELS = ("popularity", "item_to_item", "ease", "blend", "sequential", "mixture")
ENDINGS = {
    "parquet": "read_parquet",
    "csv": "read_csv",
    "csv.gz": "read_csv",
    "jsonl": "read_json",
    "jsonl.gz": "read_json",
}
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TOP = 100


def purchases(shop: Path, seed: int, shuffle: bool) -> pa.Table:
    """The distinct products of each customer in order, a day apart, with what each is for."""
    lines = duckdb.sql(
        f"""
        with o as (select *, row_number() over () as n from {source(shop, "orders")}),
        i as (select *, row_number() over () as n from {source(shop, "order_items")})
        select cast(o.customer_id as varchar) as customer_id, cast(i.product_id as varchar) as product_id,
            o.ordered_at as at, o.n as order_number, i.n as line_number
        from i join o on cast(o.order_id as varchar) = cast(i.order_id as varchar)
        where o.customer_id is not null and i.product_id is not null and coalesce(i.quantity, 1) > 0
        """
    ).df()
    lines["tie"] = np.random.default_rng(seed).random(len(lines)) if shuffle else lines["order_number"]
    lines = lines.sort_values(["customer_id", "at", "tie", "line_number"], kind="stable")
    lines = lines.drop_duplicates(["customer_id", "product_id"])
    place = lines.groupby("customer_id").cumcount()
    left = lines.groupby("customer_id")["product_id"].transform("size") - place
    size = left + place
    split = np.where(
        (left == 1) & (size > 2), "test", np.where((left == 2) & (size > 2), "validation", "train")
    )
    at = pa.array(place.to_numpy() * 86_400_000_000, pa.int64()).cast(pa.timestamp("us"))
    return pa.table({
        "customer_id": lines["customer_id"].to_list(), "product_id": lines["product_id"].to_list(), "ordered_at": at,
        "quantity": np.ones(len(lines)), "split": split.tolist(),
    })  # fmt: skip


def source(shop: Path, table: str) -> str:
    """A table of the folder as DuckDB reads it: one file, or a folder of files."""
    for ending, reader in ENDINGS.items():
        for pattern in (shop / f"{table}.{ending}", shop / table / f"*.{ending}"):
            if list(pattern.parent.glob(pattern.name)):
                return f"{reader}('{pattern}')"
    raise SystemExit(f"{shop} has no {table} as {', '.join(ENDINGS)}.")


def texts_of(shop: Path) -> Any:
    """Product ids to vectors of what the catalogue says of them; zeros where it says nothing."""
    from nightmarket import encoder

    table = duckdb.sql(f"select * from {source(shop, 'products')}").to_arrow_table()
    ids, vectors = encoder.embed_products(table)
    at = {str(product): n for n, product in enumerate(ids)}

    def texts(product_ids: Any) -> Any:
        found = np.zeros((len(product_ids), vectors.shape[1]), np.float32)
        for row, product in enumerate(product_ids):
            if product in at:
                found[row] = vectors[at[product]]
        return found

    return texts


def measure(name: str, shop: Path, seed: int, shuffle: bool, refit: bool, file: Path) -> None:
    """Tune, fit and ask one model; its numbers go to `file`."""
    import torch

    from nightmarket import metrics
    from nightmarket.ranking import Blend, Ease, ItemToItem, Mixture, Popularity, Sequential
    from nightmarket.settings import get_settings
    from nightmarket.training import finetune, scorecard
    from nightmarket.training.examples import Examples

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    examples = Examples(purchases(shop, seed, shuffle))
    texts = texts_of(shop) if name in ("sequential", "mixture") else None
    before, asked = examples.before("validation"), examples.questions("test")
    learnt = examples.before("test") if refit else before
    validation = examples.questions("validation", most=finetune.TUNING_CUSTOMERS)
    popularity = Popularity().fit(before)
    began = time.perf_counter()
    plain, chosen = (
        ({}, {}) if name in ("popularity", "sequential") else finetune.tune(examples, get_settings())
    )
    model: Any
    if name == "popularity":
        model = Popularity()
    elif name == "item_to_item":
        model = ItemToItem(**plain)
    elif name == "ease":
        model = Ease(**chosen["ease"])
    elif name == "blend":
        model = Blend.of(chosen)
    else:
        model = Sequential(texts=texts, seed=seed)
    if name == "mixture":
        model = Mixture(model, Blend.of(chosen)).fit(before)
        gains = {}
        for model.share in SHARES:
            gains[model.share] = scorecard.measure(model, popularity, validation).averages["ndcg_10"]
        model.share = max(gains, key=lambda share: (gains[share], -share))
        if refit:
            model.fit(learnt)
    else:
        model.fit(learnt)
    fitted = time.perf_counter() - began
    score = scorecard.measure(model, popularity, asked)
    seen = model.recommend(asked.histories, 10, exclude_seen=False)
    unmasked = metrics.ndcg(metrics.ranks_of(seen.products, asked.targets), 10).mean()
    began = time.perf_counter()
    model.recommend(asked.histories, TOP)
    rate = len(asked) / max(time.perf_counter() - began, 1e-9)
    numbers = score.averages | {
        "ndcg_10_unmasked": float(unmasked), "fit_s": fitted, "customers_per_s": rate, "customers": len(asked),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip
    np.savez(file, gains=score.gains, numbers=json.dumps(numbers), params=json.dumps(model.params()))


def main() -> None:
    """One process a model, so that memory is its own; then the table and the paired intervals."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shop", type=Path, required=True, help="a folder of landing files")
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--shuffle", action="store_true", help="shuffle purchases of one instant")
    options.add_argument(
        "--refit", action="store_true", help="let models learn from the validation purchases too"
    )
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    names = chosen.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        raise SystemExit(f"No such model: {', '.join(unknown)}. There are {', '.join(MODELS)}.")
    work = Path(tempfile.mkdtemp(prefix="nightmarket-ranking-"))
    os.environ.setdefault("NIGHTMARKET_HOME", str(work / "var"))
    results: dict[str, Any] = {}
    gains: dict[str, Any] = {}
    print(f"{chosen.shop}, {date.today()}, seed {chosen.seed}{', ties shuffled' if chosen.shuffle else ''}")
    columns = (
        "recall_5",
        "ndcg_5",
        "recall_10",
        "ndcg_10",
        "recall_20",
        "ndcg_20",
        "ndcg_10_unmasked",
        "coverage_20",
    )
    head = " ".join(f"{c.replace('_unmasked', '*'):>10}" for c in columns)
    print(
        f"{'':13} {head} {'fit s':>8} {'GiB':>5} {'cust./s':>8}    * seen products not left out", flush=True
    )
    for name in names:
        file = work / f"{name}.npz"
        given = (name, chosen.shop, chosen.seed, chosen.shuffle, chosen.refit, file)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=given)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} failed with exit status {process.exitcode}.")
        kept = np.load(file)
        numbers = json.loads(str(kept["numbers"]))
        gains[name] = kept["gains"]
        results[name] = {"numbers": numbers, "params": json.loads(str(kept["params"]))}
        row = " ".join(f"{numbers[c]:10.4f}" for c in columns)
        print(
            f"{name:13} {row} {numbers['fit_s']:8.1f} {numbers['peak_gib']:5.1f} {numbers['customers_per_s']:8.0f}",
            flush=True,
        )
    from nightmarket import metrics

    best = names[-1]
    print(
        f"\n{results[best]['numbers']['customers']} customers asked. NDCG@10 of {best} against, paired, 95 %:"
    )
    for name in names[:-1]:
        interval = metrics.paired_interval(gains[best], gains[name], seed=chosen.seed)
        results[name]["below_" + best] = interval._asdict()
        print(f"  {name:13} {interval.mean:+.4f}  ({interval.low:+.4f} to {interval.high:+.4f})")
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(main())
