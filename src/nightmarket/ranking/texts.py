"""What the catalogue says of products, as vectors for rankers, within a night's budget of new texts.

Not here: how a text becomes a vector (encoder), and what a ranker does with it (sequential, borrowing).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket import encoder
from nightmarket.ranking.interactions import Catalogue, Texts


def texts_of(
    products: pa.Table, *, first: NDArray[np.float64] | None = None, most: int | None = None
) -> tuple[Texts, int]:
    """Vectors of the rows of the mart `products` by product id, and how many texts are left for another night.

    A product without title, brand, category and attributes has zeros, and so has one whose text is new and beyond the
    budget.

    Args:
        first: a number a row; texts of the greatest are embedded first (by default in the table's order).
        most: new texts that may be embedded now; a text known from earlier costs nothing. None: all.
    """
    names = [c for c in ("title", "brand", "category", "attributes") if c in products.column_names]
    rows = products.select(names).to_pylist() if names else [{} for _ in range(products.num_rows)]
    texts = [encoder.product_text(row) for row in rows]
    told = np.array([bool(text) for text in texts], np.bool_)
    left = 0
    if most is not None:
        fresh = np.flatnonzero(told & ~encoder.embedded(texts))
        order = fresh if first is None else fresh[np.argsort(-first[fresh], kind="stable")]
        allowed: dict[str, None] = {}
        for row in order.tolist():
            if len(allowed) == most and texts[row] not in allowed:
                told[row] = False
            else:
                allowed[texts[row]] = None
        left = len({texts[row] for row in order.tolist()} - set(allowed))
    vectors = np.zeros((products.num_rows, encoder.DIMENSIONS), np.float32)
    vectors[told] = encoder.embed([text for text, use in zip(texts, told, strict=True) if use])
    catalogue = Catalogue.of(products["product_id"])
    by_code = np.zeros((len(catalogue) + 1, encoder.DIMENSIONS), np.float32)
    by_code[catalogue.codes(products["product_id"])] = vectors

    def texts_by_id(product_ids: Sequence[str]) -> NDArray[np.float32]:
        return by_code[
            catalogue.codes(list(product_ids))
        ]  # a product that is not there has the last row, zeros

    return texts_by_id, left
