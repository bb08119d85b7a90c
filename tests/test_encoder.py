"""The packaged encoder: real weights, unit vectors, each text embedded once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nightmarket import encoder


def test_like_texts_lie_closer_than_unlike_ones(home: Path) -> None:
    vectors = encoder.embed(
        ["steel water bottle", "insulated drinking flask", "children's bedtime story book"]
    )
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_a_text_is_embedded_once_and_comes_back_bit_by_bit(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoder.embed(["tea pot", "tea cup"])
    monkeypatch.setattr(encoder, "_encode", lambda texts: pytest.fail(f"embedded again: {texts}"))
    again = encoder.embed(["tea cup", "tea pot", "tea cup"])
    assert np.array_equal(again, first[[1, 0, 1]])


def test_a_night_without_new_texts_imports_no_torch(home: Path) -> None:
    encoder.embed(["tea pot"])
    script = "import sys; from nightmarket import encoder; encoder.embed(['tea pot']); sys.exit('torch' in sys.modules)"
    env = os.environ | {"NIGHTMARKET_HOME": str(home)}
    assert subprocess.run([sys.executable, "-c", script], env=env, check=False).returncode == 0


def test_no_texts_give_no_vectors(home: Path) -> None:
    assert encoder.embed([]).shape == (0, 384)


def test_odd_texts_have_vectors_too(home: Path) -> None:
    vectors = encoder.embed(["", "龙泉青瓷茶杯", "word " * 5000, "\x00\udcff"])
    assert vectors.shape == (4, 384) and np.isfinite(vectors).all()


def test_products_are_read_as_title_brand_category_and_attributes(home: Path) -> None:
    rows = [
        {"product_id": "b", "title": "Steel <b>bottle</b>", "brand": "Hydra", "category": "Kitchen > Bottles",
         "attributes": '{"capacity": "750 ml", "odd": [1]}', "description": "Call 020 7946 0958"},
        {"product_id": "a", "title": "Mug", "brand": None, "category": None, "attributes": "not json", "description": None},
    ]  # fmt: skip
    assert encoder.product_text(rows[0]) == "Steel bottle. Hydra. Kitchen , Bottles. capacity: 750 ml"
    ids, vectors = encoder.embed_products(pa.Table.from_pylist(rows))
    assert ids == ["b", "a"] and vectors.shape == (2, 384)
    assert np.array_equal(vectors[1], encoder.embed(["Mug"])[0])
