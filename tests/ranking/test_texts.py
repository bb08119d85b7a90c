"""Texts for rankers: by product id, within a budget, most bought first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nightmarket import encoder
from nightmarket.ranking.texts import texts_of

PRODUCTS = pa.table({
    "product_id": ["b", "a", "c", "d"], "title": ["Blue mug", "Red towel", "", "Blue mug"],
    "brand": pa.array([None] * 4, pa.string()),
})  # fmt: skip


@pytest.fixture(autouse=True)
def _vectors(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The real store with vectors that cost nothing; returns what was embedded."""
    asked: list[str] = []

    def made(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.tile(np.array([[float(len(text))] for text in texts], np.float32), (1, encoder.DIMENSIONS))

    monkeypatch.setattr(encoder, "_encode", made)
    return asked


def test_a_product_has_its_text_s_vector_and_one_without_text_or_unknown_has_zeros() -> None:
    texts, left = texts_of(PRODUCTS)
    assert texts(["a", "b", "c", "unknown", "d"])[:, 0].tolist() == [9, 8, 0, 0, 8] and left == 0


def test_a_budget_takes_the_most_bought_first_and_the_rest_waits(_vectors: list[str]) -> None:
    bought = np.array([1.0, 5.0, 9.0, 0.0])
    texts, left = texts_of(PRODUCTS, first=bought, most=1)
    assert _vectors == ["Red towel"] and texts(["a", "b", "d"])[:, 0].tolist() == [9, 0, 0] and left == 1
    again, left = texts_of(PRODUCTS, first=bought, most=1)
    assert (
        _vectors == ["Red towel", "Blue mug"]
        and again(["a", "b", "d"])[:, 0].tolist() == [9, 8, 8]
        and left == 0
    )
    assert texts_of(PRODUCTS, first=bought, most=0)[0](["a", "b"])[:, 0].tolist() == [9, 8]
