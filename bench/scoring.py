"""Top-100 for many customers beside the libraries one would pick: faiss Flat by vectors, implicit by its own ALS.

    python bench/scoring.py [--shop PATH] [--parts faiss,implicit,size] [--threads 2] [--rounds 5] [--json FILE]

Needs implicit and faiss-cpu, which Nightmarket itself does not use: `make bench` installs them beside the environment. A
part whose library is missing says so.

    faiss     100k x 64 and 1M x 64, random vectors, and the shop's ALS factors spread to 100k products
    implicit  every customer of the shop with bought products left out, ALS of 64, 128 and 256 factors
    size      ours alone at 12k, 100k and 1M products: customers a second and greatest memory, a process each

Both sides of a comparison take turns, several rounds; what counts is the median of the rounds' ratios, so that a machine
that is busy for a while is busy for both. Beside wall seconds stand CPU seconds. `recall` is against exact fp64 scores.
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
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

# Waiting threads sleep: on a busy machine spinning ones take the core from those that work, on both sides.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

TOP = 100
PARTS = ("faiss", "implicit", "size")
INSTALL = "is not installed: make bench brings it along (the extra `bench`)"


def turns(ours: Callable[[], Any], theirs: Callable[[], Any], rows: int, rounds: int) -> dict[str, float]:
    """Rows a second of both, and their ratio, by taking turns after one round that is not counted."""
    seconds = np.zeros((rounds + 1, 2, 2))
    for n in range(rounds + 1):
        for side, work in enumerate((ours, theirs)):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            seconds[n, side] = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = seconds[1:, :, 0], seconds[1:, :, 1]
    return {
        "ours_per_s": rows / float(np.median(wall[:, 0])), "theirs_per_s": rows / float(np.median(wall[:, 1])),
        "ratio": float(np.median(wall[:, 1] / wall[:, 0])), "ratio_least": float((wall[:, 1] / wall[:, 0]).min()),
        "ratio_most": float((wall[:, 1] / wall[:, 0]).max()), "cpu_ratio": float(np.median(cpu[:, 1] / cpu[:, 0])),
        "ours_per_cpu_s": rows / float(np.median(cpu[:, 0])), "theirs_per_cpu_s": rows / float(np.median(cpu[:, 1])),
    }  # fmt: skip


def show(name: str, numbers: dict[str, float]) -> None:
    """One line of the table."""
    cells = " ".join(
        f"{numbers[key]:>{width}.{digits}f}"
        for key, width, digits in (
            ("ours_per_s", 9, 0), ("theirs_per_s", 9, 0), ("ratio", 7, 2), ("ratio_least", 6, 2), ("ratio_most", 6, 2),
            ("cpu_ratio", 7, 2), ("recall", 8, 5), ("same", 8, 5),
        )
    )  # fmt: skip
    print(f"{name:26} {cells}", flush=True)


def exact(queries: Any, items: Any, lists: Any, seen: Any) -> tuple[float, float]:
    """Recall of the lists against exact scores, and the share of slots that hold just what sorting fp32 scores puts there."""
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    rounded = (queries @ items.T).astype(np.float32)
    if seen is not None:
        rows = np.repeat(np.arange(len(queries)), np.diff(seen[0]))
        scores[rows, seen[1]] = rounded[rows, seen[1]] = -np.inf
    found = hits = 0
    for row, listed in enumerate(lists):
        hits += len(np.intersect1d(np.argpartition(-scores[row], TOP - 1)[:TOP], listed))
        near = np.flatnonzero(rounded[row] >= np.partition(rounded[row], -TOP)[-TOP])
        best = near[np.lexsort((near, -rounded[row][near]))][:TOP]
        found += int((best == listed).sum())
    return hits / (len(lists) * TOP), found / (len(lists) * TOP)


def against_faiss(threads: int, rounds: int, factors: Any, results: dict[str, Any]) -> None:
    """Blocks of all customers of a night against one search call of faiss Flat with the same queries."""
    try:
        import faiss
    except ImportError:
        print(f"faiss {INSTALL}")
        return
    from nightmarket.ranking.topk import top_by_product

    faiss.omp_set_num_threads(threads)
    random = np.random.default_rng(7)
    shelves = {
        "faiss 100k x 64 random": (random.normal(size=(100_000, 64)), random.normal(size=(16_384, 64))),
        "faiss 1M x 64 random": (random.normal(size=(1_000_000, 64)), random.normal(size=(2_048, 64))),
    }
    if factors is not None:
        users, items = factors
        more = items[random.integers(len(items), size=100_000)]
        spread = items.std(axis=0) * 0.1
        shelves["faiss 100k x 64 ALS"] = (more + random.normal(size=more.shape) * spread, users[:16_384])
    for name, given in shelves.items():
        items, queries = (np.ascontiguousarray(part, np.float32) for part in given)
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items)
        lists = top_by_product(queries[:200], items, TOP)
        recall, same = exact(queries[:200], items, lists.products, None)
        results[name] = turns(
            lambda q=queries, x=items: top_by_product(q, x, TOP), lambda q=queries, i=index: i.search(q, TOP),
            len(queries), rounds,
        ) | {"recall": recall, "same": same}  # fmt: skip
        show(name, results[name])


def against_implicit(bought: Any, threads: int, rounds: int, results: dict[str, Any]) -> Any:
    """All customers of the shop against ALS.recommend on the same factors; returns those of 64 dimensions."""
    try:
        from implicit.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits
    except ImportError:
        print(f"implicit {INSTALL}")
        return None
    from nightmarket.ranking.topk import top_by_product

    seen = (bought.indptr.astype(np.int64), bought.indices.astype(np.int32))
    everybody, kept = np.arange(bought.shape[0]), None
    for size in (64, 128, 256):
        # implicit asks for a BLAS of one thread: it makes its own.
        with threadpool_limits(1, user_api="blas"):
            model = AlternatingLeastSquares(
                factors=size,
                iterations=5,
                regularization=0.05,
                alpha=2.0,
                random_state=7,
                num_threads=threads,
            )
            model.fit(bought, show_progress=False)
        users, items = model.user_factors, model.item_factors
        kept = (users, items) if kept is None else kept

        def theirs(model: Any = model) -> None:
            with threadpool_limits(1, user_api="blas"):
                model.recommend(everybody, bought, N=TOP, filter_already_liked_items=True)

        some = bought[:2000]
        lists = top_by_product(users[:2000], items, TOP, seen=(some.indptr.astype(np.int64), some.indices))
        recall, same = exact(users[:2000], items, lists.products, (some.indptr, some.indices))
        name = f"implicit ALS {size}"
        results[name] = turns(
            lambda u=users, i=items: top_by_product(u, i, TOP, seen=seen), theirs, len(users), rounds
        ) | {"recall": recall, "same": same}
        show(name, results[name])
    return kept


def alone(products: int, threads: int, results: Any) -> None:
    """Ours in a process of its own: memory above that of the vectors and the lists themselves."""
    import torch

    from nightmarket.ranking.topk import top_by_product

    torch.set_num_threads(threads)
    random = np.random.default_rng(7)
    items = random.standard_normal((products, 64), np.float32)
    queries = random.standard_normal((max(512, 200_000_000 // products), 64), np.float32)[:16_384]
    top_by_product(queries[:2], items[:5000], TOP)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    lists = top_by_product(queries, items, TOP)
    wall = time.perf_counter() - began
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    results[f"size {products}"] = {
        "customers": len(queries), "ours_per_s": len(queries) / wall, "more_mib": more / 2**10,
        "vectors_mib": items.nbytes / 2**20, "lists_mib": (lists.products.nbytes + lists.scores.nbytes) / 2**20,
        "all_scores_mib": len(queries) * products * 4 / 2**20,
    }  # fmt: skip


def purchases(shop: str) -> Any:
    """Customers x products of a shop: 1 for bought."""
    import scipy.sparse as sp

    sys.path.insert(0, str(Path(__file__).parent))
    import ranking

    with tempfile.TemporaryDirectory(prefix="nightmarket-scoring-") as home:
        ranking.land(shop, Path(os.environ.get("NIGHTMARKET_HOME", home)))
        table = ranking.purchases(7, False)
    _, customer = np.unique(np.asarray(table["customer_id"].to_pylist()), return_inverse=True)
    _, product = np.unique(np.asarray(table["product_id"].to_pylist()), return_inverse=True)
    bought = sp.csr_matrix((np.ones(len(customer), np.float32), (customer, product)))
    bought.sort_indices()
    return bought


def main() -> None:
    """The parts that were asked for, then the file."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shop", help="a folder of landing files, or demo; needed for implicit")
    options.add_argument("--parts", default=",".join(PARTS))
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    parts = chosen.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"No such part: {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    results: dict[str, Any] = {}
    print(f"{date.today()}, {chosen.threads} threads, top {TOP}, {chosen.rounds} rounds in turns")
    if "size" in parts:
        # First, and in processes that inherit nothing: greatest memory only ever grows.
        print(f"{'':26} {'cust./s':>9} {'more MiB':>9} {'vectors':>9} {'lists':>9} {'all scores':>11}")
        with multiprocessing.get_context("spawn").Manager() as manager:
            shared = manager.dict()
            for products in (12_000, 100_000, 1_000_000):
                process = multiprocessing.get_context("spawn").Process(
                    target=alone, args=(products, chosen.threads, shared)
                )
                process.start()
                process.join()
                n = results[f"size {products}"] = shared[f"size {products}"]
                print(
                    f"{f'size {products} x 64':26} {n['ours_per_s']:9.0f} {n['more_mib']:9.0f} {n['vectors_mib']:9.0f} "
                    f"{n['lists_mib']:9.0f} {n['all_scores_mib']:11.0f}",
                    flush=True,
                )
    if "faiss" in parts or "implicit" in parts:
        import torch

        torch.set_num_threads(chosen.threads)
        print(
            f"{'rows a second':26} {'ours':>9} {'theirs':>9} {'ratio':>7} {'least':>6} {'most':>6} {'by CPU':>7} "
            f"{'recall':>8} {'same':>8}"
        )
    factors = None
    if "implicit" in parts:
        if chosen.shop is None:
            raise SystemExit("The part `implicit` asks about the customers of a shop: --shop PATH.")
        factors = against_implicit(purchases(chosen.shop), chosen.threads, chosen.rounds, results)
    if "faiss" in parts:
        against_faiss(chosen.threads, chosen.rounds, factors, results)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(main())
