"""Does tuning the text encoder on a shop pay? The ablation of `finetune_encoder` on any landing folder.

python bench/encoder.py --shop PATH [--steps N] [--products M] [--reviews] [--seed N] [--json FILE]

Four encoders find held-out bought-together pairs again by text: the packaged one, pre-trained on the shop's texts, tuned on
what is bought together, and both. Printed: measures on the test pairs, paired 95 % intervals against the packaged one,
losses before and after, and what that says in words. Rows of a shop are read as they are: nothing is landed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shop", type=Path, required=True, help="a landing folder with Parquet files")
    parser.add_argument(
        "--steps", type=int, default=None, help="steps of each objective (default: the setting)"
    )
    parser.add_argument(
        "--products", type=int, default=None, help="products ranked at most (default: the setting)"
    )
    parser.add_argument("--reviews", action="store_true", help="pre-train on the shop's reviews too")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as home:
        os.environ["NIGHTMARKET_HOME"] = home
        found = measure(arguments, Path(home))
    for name, values in found["scores"].items():
        print(f"{name:<12}" + "".join(f"  {key} {value:.4f}" for key, value in values.items()))
    for row in found["ablation"]:
        print(
            f"{row['variant']} against {row['against']}: {row['mean']:+.4f}, 95 % {row['low']:+.4f} to {row['high']:+.4f} "
            f"({row['examples']} pairs)"
        )
    for name, (first, last) in found["losses"].items():
        print(f"{name}: {first:.3f} -> {last:.3f}")
    print(
        f"put forward: {found['variant']}; gate: {'promote' if found['promote'] else 'refuse'}: {found['reason']}"
    )
    print(f"paid? {found['paid']}")
    print(f"{found['seconds']:.1f} s, {found['cpu_seconds']:.1f} s of processor, {found['peak_mib']:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1, sort_keys=True))


def measure(arguments: argparse.Namespace, home: Path) -> dict[str, object]:
    """Train and compare; what the gate report says, with losses and costs."""
    from nightmarket.ranking import Catalogue
    from nightmarket.settings import get_settings
    from nightmarket.training import finetune_encoder, together

    settings = get_settings()
    products = finetune_encoder.told(pq.read_table(arguments.shop / "products.parquet"))
    reviews = pq.read_table(arguments.shop / "reviews.parquet") if arguments.reviews else None
    pairs = together.Together(
        together.pairs_of(purchases(arguments.shop), seed=arguments.seed),
        Catalogue.of(products["product_id"]),
    )
    began, busy = time.perf_counter(), time.process_time()
    made = finetune_encoder.tune(
        products, pairs, reviews, steps=arguments.steps or settings.encoder_steps,
        most=arguments.products or settings.encoder_trial_products, seed=arguments.seed, folder=home / "training",
    )  # fmt: skip
    return dict(made.report) | {
        "shop": arguments.shop.name, "products": products.num_rows, "pairs": len(pairs.learnt),
        "losses": {name: (points[0][1], points[-1][1]) for name, points in sorted(made.curves.items())},
        "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - busy,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def purchases(shop: Path) -> pa.Table:
    """What customers bought, in order of customer and time."""
    orders = pq.read_table(shop / "orders.parquet")
    if "status" in orders.column_names:
        orders = orders.filter(pa.compute.not_equal(orders["status"], "cancelled"))
    orders = orders.select(["order_id", "customer_id", "ordered_at"])
    items = pq.read_table(shop / "order_items.parquet", columns=["order_id", "product_id"])
    bought = items.join(orders, "order_id", join_type="inner")
    bought = bought.group_by(["customer_id", "product_id", "order_id", "ordered_at"]).aggregate([])
    return bought.sort_by([(c, "ascending") for c in ("customer_id", "ordered_at", "order_id", "product_id")])


if __name__ == "__main__":
    main()
