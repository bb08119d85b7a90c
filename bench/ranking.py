"""The rankers against each other on any landing folder: leave-one-out, full ranking, one process a model.

    python bench/ranking.py --shop PATH [--models popularity,ease,mixture] [--seed 7] [--shuffle] [--refit] [--hide 0.1]
        [--json FILE]

Each customer's last purchase is the test, the one before it validation; a product's later purchases by the same customer
are left out. The folder is read as a night reads it: contract, renames, quarantine. Purchases of one instant stand in file order, or shuffled with --shuffle. Hyper-parameters are chosen on
validation purchases and the test is asked once. Models are fitted on what came before validation, as published tables
do it, and asked with the validation purchase in the history; --refit lets them learn from it too, as a shop's would.

`mixture` is the blend that a night trains. `sasrec` is the plain peer: a causal transformer over product ids alone (64
dimensions, one block, full cross-entropy), without texts. With --hide a share of the products, drawn by seed, is taken out of
everything that is learnt, so the questions about them are about products that nobody bought yet.

Prints for each model Recall and NDCG at 5, 10 and 20 with products bought before left out (and NDCG@10 with them),
coverage, seconds to tune and fit, greatest memory, customers per second (top 100), and paired intervals of NDCG@10. Of the
last model also: Recall@10 of targets that nobody had bought, how faithful its reasons are, and seconds of a warm start on 1 %
new purchases.
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

import numpy as np
import pyarrow as pa

MODELS = ("popularity", "item_to_item", "ease", "blend", "sasrec", "sequential", "mixture")
SASREC = {"dimensions": 64, "layers": 1, "heads": 1, "dropout": 0.4, "learning_rate": 0.002, "epochs": 20}
TOP = 100


def land(shop: str, home: Path) -> None:
    """The shop's files in `raw` of a home of its own: by contract, renames and quarantine as every night reads them."""
    from nightmarket import landing, shops
    from nightmarket.settings import choose_shop

    settings = choose_shop(shop, home)
    opened = shops.open_shop(settings.shop, landing_root=settings.state / "landing")
    landing.load(opened, shops.default_day(opened), run_id="bench")


def purchases(seed: int, shuffle: bool) -> pa.Table:
    """The distinct products of each customer in order, a day apart, with what each is for."""
    from nightmarket import warehouse

    lines = warehouse.read("""
        select o.customer_id, i.product_id, o.ordered_at as at, o._landing as landing, o._line as order_line,
            i._landing as item_landing, i._line as item_line
        from raw.order_items i join raw.orders o using (order_id)
        where o.customer_id is not null and i.product_id is not null and i.quantity > 0
    """).to_pandas()
    order = ["landing", "order_line", "item_landing", "item_line"]
    if shuffle:
        lines["tie"] = np.random.default_rng(seed).permutation(len(lines))
        order = ["tie"]
    lines = lines.sort_values(["customer_id", "at", *order], kind="stable")
    lines = lines.drop_duplicates(["customer_id", "product_id"])
    place = lines.groupby("customer_id").cumcount()
    size = lines.groupby("customer_id")["product_id"].transform("size")
    left = size - place
    split = np.where(
        (left == 1) & (size > 2), "test", np.where((left == 2) & (size > 2), "validation", "train")
    )
    at = pa.array(place.to_numpy() * 86_400_000_000, pa.int64()).cast(pa.timestamp("us"))
    return pa.table({
        "customer_id": lines["customer_id"].to_list(), "product_id": lines["product_id"].to_list(), "ordered_at": at,
        "quantity": np.ones(len(lines)), "split": split.tolist(),
    })  # fmt: skip


def hidden(table: pa.Table, share: float, seed: int) -> pa.Table:
    """The purchases without those from which a hidden product could be learnt: only questions about it stay."""
    ids = sorted(set(table["product_id"].to_pylist()))
    drawn = set(np.array(ids)[np.random.default_rng(seed).permutation(len(ids))[: round(len(ids) * share)]])
    kept = [
        product not in drawn or split == "test"
        for product, split in zip(table["product_id"].to_pylist(), table["split"].to_pylist(), strict=True)
    ]
    return table.filter(pa.array(kept))


def measure(name: str, options: argparse.Namespace, is_last: bool, file: Path) -> None:
    """Tune, fit and ask one model; its numbers go to `file`."""
    import torch

    from nightmarket import metrics, warehouse
    from nightmarket.ranking import Blend, Ease, ItemToItem, Popularity, Sequential
    from nightmarket.ranking.texts import texts_of
    from nightmarket.settings import get_settings
    from nightmarket.training import faithfulness, recipe, scorecard
    from nightmarket.training.examples import Examples

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    seed, settings = options.seed, get_settings()
    table = purchases(seed, options.shuffle)
    catalogue = Examples(table).catalogue
    examples = Examples(hidden(table, options.hide, seed) if options.hide else table, catalogue=catalogue)
    texts = None
    if name in ("blend", "sequential", "mixture"):
        texts, _ = texts_of(warehouse.read("select * from raw.products order by product_id"))
    before, asked = examples.before("validation"), examples.questions("test")
    learnt = examples.before("test") if options.refit else before
    began = time.perf_counter()
    model: Any
    if name == "popularity":
        model = Popularity().fit(learnt)
    elif name == "sasrec":
        model = Sequential(seed=seed, **SASREC).fit(learnt)
    elif name == "sequential":
        model = Sequential(texts=texts, seed=seed).fit(learnt)
    elif name == "mixture":
        chosen = recipe.tune(examples, settings, texts)
        # Tuning has fitted it on the same purchases; fitted again here only where it is to learn from more.
        model = recipe.build(chosen.ranker, learnt, texts, like=None if options.refit else chosen.fitted)
    else:
        plain, blend = recipe.tune_blend(examples, settings)
        model = {
            "item_to_item": ItemToItem(**plain),
            "ease": Ease(**blend["ease"]),
            "blend": Blend.of(blend, texts),
        }[name]
        model.fit(learnt)
    fitted = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    score = scorecard.measure(model, Popularity().fit(learnt), asked)
    seen = model.recommend(asked.histories, 10, exclude_seen=False)
    unmasked = metrics.ndcg(metrics.ranks_of(seen.products, asked.targets), 10).mean()
    began = time.perf_counter()
    model.recommend(asked.histories, TOP)
    rate = len(asked) / max(time.perf_counter() - began, 1e-9)
    unseen = np.bincount(learnt.products, minlength=len(catalogue))[asked.targets] == 0
    hits = metrics.recall(metrics.ranks_of(score.lists.products, asked.targets), 10)
    numbers = score.averages | {
        "ndcg_10_unmasked": float(unmasked), "fit_s": fitted, "customers_per_s": rate, "customers": len(asked),
        "peak_gib": peak, "unseen": int(unseen.sum()), "products": len(catalogue),
        "recall_10_unseen": float(hits[unseen].mean()) if unseen.any() else 0.0,
    }  # fmt: skip
    if is_last:
        numbers |= {"faithfulness": faithfulness.measure(model, asked.histories, seed=seed)._asdict()}
        numbers |= {"warm": warm_start(examples, model, texts, asked, seed)}
    np.savez(file, gains=score.gains, numbers=json.dumps(numbers), params=json.dumps(model.params()))


def warm_start(examples: Any, model: Any, texts: Any, asked: Any, seed: int) -> dict[str, float] | None:
    """Seconds to go on from a fitted mixture with 1 % more purchases, and what becomes of NDCG@10."""
    from nightmarket.ranking import Interactions, Mixture, Popularity
    from nightmarket.training import recipe, scorecard

    if not isinstance(model, Mixture):
        return None
    table = examples.purchases
    split = np.array(table["split"].to_pylist())
    validation = np.random.default_rng(seed).permutation(np.flatnonzero(split == "validation"))
    new = validation[: round(0.01 * int((split == "train").sum()))]
    learnt = table.filter(pa.array((split == "train") | np.isin(np.arange(len(split)), new)))
    fresh = table["customer_id"].take(pa.array(new)).to_pylist()
    interactions = Interactions.of(learnt, catalogue=examples.catalogue)
    began = time.perf_counter()
    warm = recipe.build(
        {"kind": Mixture.kind, **model.params()}, interactions, texts, start=model, fresh=fresh
    )
    seconds = time.perf_counter() - began
    popularity = Popularity().fit(interactions)
    before, after = (scorecard.measure(m, popularity, asked).averages["ndcg_10"] for m in (model, warm))
    return {"seconds": seconds, "purchases": len(new), "ndcg_10_before": before, "ndcg_10_after": after}


def main() -> None:
    """One process a model, so that memory is its own; then the table and the paired intervals."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shop", required=True, help="a folder of landing files, or demo")
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--shuffle", action="store_true", help="shuffle purchases of one instant")
    options.add_argument(
        "--refit", action="store_true", help="let models learn from the validation purchases too"
    )
    options.add_argument(
        "--hide", type=float, default=0.0, help="share of products that nobody may have bought yet"
    )
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    names = chosen.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        raise SystemExit(f"No such model: {', '.join(unknown)}. There are {', '.join(MODELS)}.")
    work = Path(tempfile.mkdtemp(prefix="nightmarket-ranking-"))
    land(chosen.shop, Path(os.environ.get("NIGHTMARKET_HOME", work / "var")))
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
        given = (name, chosen, name == names[-1], file)
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
    told = results[best]["numbers"]
    chance = 10 / max(told["products"], 1)
    print(
        f"\nRecall@10 of {told['unseen']} targets that nobody had bought: "
        + ", ".join(f"{n} {results[n]['numbers']['recall_10_unseen']:.4f}" for n in names)
        + f"; a random guess {chance:.4f}"
    )
    reasons = told["faithfulness"]
    print(
        f"Reasons of {best}: the products named cost more than random ones in {reasons['share']:.1%} of {reasons['lists']} lists "
        f"(mean loss of score {reasons['drop_named']:.1%} against {reasons['drop_random']:.1%})"
    )
    if warm := told["warm"]:
        print(
            f"Warm start on {warm['purchases']} new purchases: {warm['seconds']:.1f} s, NDCG@10 "
            f"{warm['ndcg_10_before']:.4f} before, {warm['ndcg_10_after']:.4f} after"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(main())
