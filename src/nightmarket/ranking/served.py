"""How a registered ranker is loaded by whoever serves models: histories of product ids in, lists of product ids out.

MLflow calls `_load_pyfunc`. Not here: the night's own scoring, which uses `ranking.load` and blocks of customers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nightmarket.ranking import Histories, Popularity, Ranker, load

if TYPE_CHECKING:
    import pandas as pd

EXAMPLE_LENGTH = 10
"""Products a list when the caller does not say."""


class Served:
    """A ranker behind a frame: one row a customer, `history` lists the products bought, the latest last."""

    def __init__(self, ranker: Ranker, popularity: Popularity) -> None:
        self.ranker, self.popularity = ranker, popularity

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """For each row of `history` the best products and their scores; `params["k"]` says how many."""
        import pandas as pd

        k = int((params or {}).get("k", EXAMPLE_LENGTH))
        rows = [[str(p) for p in history] for history in frame["history"]]
        flat = [
            (f"{row:09d}", product, at)
            for row, history in enumerate(rows)
            for at, product in enumerate(history)
        ]
        purchases = pa.table({
            "customer_id": pa.array([f[0] for f in flat], pa.string()),
            "product_id": pa.array([f[1] for f in flat], pa.string()),
            "ordered_at": pa.array([f[2] for f in flat], pa.int64()).cast(pa.timestamp("us")),
        })  # fmt: skip
        catalogue = self.ranker.catalogue
        histories = Histories.of(purchases, catalogue, [f"{row:09d}" for row in range(len(rows))])
        lists, _ = self.popularity.fill(self.ranker.recommend(histories, k), histories)
        ids = catalogue.product_ids
        return pd.DataFrame({
            "product_ids": [[ids[p] for p in row if p >= 0] for row in lists.products],
            "scores": [
                [float(s) for s, p in zip(scores, row, strict=True) if p >= 0]
                for scores, row in zip(lists.scores, lists.products, strict=True)
            ],
        })  # fmt: skip


def _load_pyfunc(path: str) -> Served:
    folder = Path(path)
    popularity = load(folder / "popularity")
    assert isinstance(popularity, Popularity)
    return Served(load(folder / "ranker"), popularity)
