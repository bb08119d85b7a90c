"""What every ranker promises, held against each of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from nightmarket import ranking
from nightmarket.errors import ModelNotFound, ModelRefused
from nightmarket.ranking import (
    Blend,
    Catalogue,
    Ease,
    Histories,
    Interactions,
    ItemToItem,
    Linear,
    Mixture,
    Popularity,
    Ranker,
    Sequential,
)
from nightmarket.ranking.base import top_of
from tests.ranking.purchases import purchases, shop


class EveryModel:
    """The promises of `Ranker`. A model's class of tests makes one."""

    def make(self) -> Ranker:
        raise NotImplementedError

    @pytest.fixture
    def interactions(self) -> Interactions:
        return Interactions.of(shop())

    @pytest.fixture
    def fitted(self, interactions: Interactions) -> Ranker:
        return self.make().fit(interactions)

    def test_lists_never_hold_what_was_bought(self, fitted: Ranker, interactions: Interactions) -> None:
        histories = interactions.histories()
        lists = fitted.recommend(histories, 10)
        assert (lists.products[:, 0] >= 0).any()
        for row in range(len(histories)):
            bought = set(histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist())
            assert not bought & set(lists.products[row].tolist())

    def test_lists_hold_allowed_products_only_and_none_twice(
        self, fitted: Ranker, interactions: Interactions
    ) -> None:
        allowed = np.arange(len(interactions.catalogue)) % 2 == 0
        lists = fitted.recommend(interactions.histories(), 10, allowed=allowed)
        for row in lists.products.tolist():
            listed = [p for p in row if p >= 0]
            assert len(listed) == len(set(listed)) and all(p % 2 == 0 for p in listed)

    def test_no_product_allowed_gives_empty_lists(self, fitted: Ranker, interactions: Interactions) -> None:
        nothing = np.zeros(len(interactions.catalogue), np.bool_)
        assert (fitted.recommend(interactions.histories(), 5, allowed=nothing).products == -1).all()

    def test_lists_are_those_of_sorting_all_scores(self, fitted: Ranker, interactions: Interactions) -> None:
        histories = interactions.histories()
        lists, every = fitted.recommend(histories, 7), fitted.score(histories)
        for row in range(0, len(histories), 11):
            scores = every[row].copy()
            scores[histories.items[histories.offsets[row] : histories.offsets[row + 1]]] = 0
            best = sorted((p for p in range(len(scores)) if scores[p] > 0), key=lambda p: (-scores[p], p))[:7]
            assert [p for p in lists.products[row].tolist() if p >= 0] == best
            assert lists.scores[row][: len(best)].tolist() == scores[best].tolist()

    def test_a_product_bought_before_may_be_asked_for(
        self, fitted: Ranker, interactions: Interactions
    ) -> None:
        histories = interactions.histories()
        scores = fitted.score(histories)
        lists = fitted.recommend(histories, 3, exclude_seen=False)
        assert lists.products.tolist() == top_of(scores, 3).products.tolist()

    def test_the_same_purchases_give_the_same_bits(self, fitted: Ranker, interactions: Interactions) -> None:
        again = self.make().fit(interactions)
        assert {k: v.tobytes() for k, v in again.arrays().items()} == {
            k: v.tobytes() for k, v in fitted.arrays().items()
        }

    def test_saved_and_loaded_it_is_the_same_model(
        self, fitted: Ranker, interactions: Interactions, tmp_path: Path
    ) -> None:
        fitted.save(tmp_path / "m")
        loaded = ranking.load(tmp_path / "m")
        assert type(loaded) is type(fitted) and loaded.params() == fitted.params()
        histories = interactions.histories()
        ours, theirs = fitted.recommend(histories, 10), loaded.recommend(histories, 10)
        assert (
            ours.products.tolist() == theirs.products.tolist()
            and ours.scores.tolist() == theirs.scores.tolist()
        )
        assert sorted(p.suffix for p in (tmp_path / "m").iterdir()) == [".json", ".json", ".safetensors"]

    def test_a_changed_file_of_weights_is_refused(self, fitted: Ranker, tmp_path: Path) -> None:
        fitted.save(tmp_path / "m")
        weights = load_file(tmp_path / "m/model.safetensors")
        save_file(
            {name: array[::-1].copy() for name, array in weights.items()}, tmp_path / "m/model.safetensors"
        )
        with pytest.raises(ModelRefused, match="sha256"):
            ranking.load(tmp_path / "m")

    def test_another_catalogue_in_the_folder_is_refused(self, fitted: Ranker, tmp_path: Path) -> None:
        fitted.save(tmp_path / "m")
        ids = json.loads((tmp_path / "m/catalogue.json").read_text())
        (tmp_path / "m/catalogue.json").write_text(json.dumps([*ids[:-1], "zzz"]))
        with pytest.raises(ModelRefused, match="another catalogue"):
            ranking.load(tmp_path / "m")

    def test_histories_of_another_catalogue_are_refused(self, fitted: Ranker) -> None:
        foreign = Histories.of(purchases({"x": ["a"]}), Catalogue.of(["a", "b"]))
        with pytest.raises(ModelRefused, match="another catalogue"):
            fitted.recommend(foreign, 3)

    def test_flags_of_another_length_are_refused(self, fitted: Ranker, interactions: Interactions) -> None:
        with pytest.raises(ModelRefused, match="flags"):
            fitted.recommend(interactions.histories(), 3, allowed=np.ones(3, np.bool_))

    def test_contributions_come_from_the_history_and_add_up(
        self, fitted: Ranker, interactions: Interactions
    ) -> None:
        histories = interactions.histories()
        lists = fitted.recommend(histories, 3)
        causes = fitted.because(histories, lists)
        assert causes.shape == (*lists.products.shape, 3)
        for row in range(0, len(histories), 17):
            bought = set(histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist())
            for place, product in enumerate(lists.products[row].tolist()):
                if product < 0:
                    continue
                found = fitted.explain(histories, row, product)
                assert {c.product for c in found} <= bought
                named = [p for p in causes[row, place].tolist() if p >= 0]
                assert named == [c.product for c in found if c.amount > 0][:3]
                if isinstance(fitted, Linear) and found:
                    assert sum(c.amount for c in found) == pytest.approx(
                        float(lists.scores[row, place]), rel=1e-4
                    )

    def test_a_customer_without_purchases_is_told_nothing_personal(self, fitted: Ranker) -> None:
        nobody = Histories.of(purchases({}), fitted.catalogue, ["nobody"])
        lists = fitted.recommend(nobody, 5)
        assert (fitted.because(nobody, lists) == -1).all()

    def test_an_empty_shop_can_be_fitted_asked_and_saved(self, tmp_path: Path) -> None:
        empty = Interactions.of(purchases({}))
        model = self.make().fit(empty)
        assert model.recommend(empty.histories(), 5).products.shape == (0, 5)
        nobody = Histories.of(purchases({}), model.catalogue, ["nobody"])
        assert model.recommend(nobody, 5).products.tolist() == [[-1] * 5]
        model.save(tmp_path / "m")
        assert len(ranking.load(tmp_path / "m").catalogue) == 0

    def test_one_customer_with_one_product_is_enough_to_fit(self) -> None:
        model = self.make().fit(Interactions.of(purchases({"x": ["a"]})))
        assert model.recommend(
            Histories.of(purchases({"x": ["a"]}), model.catalogue), 5
        ).products.tolist() == [[-1] * 5]

    def test_a_product_in_half_of_all_baskets_does_not_break_it(self) -> None:
        histories: dict[str, list[str | list[str]]] = {
            f"c{n:03d}": [["bag", f"p{n % 7}"] if n % 2 else f"p{n % 7}", f"p{(n + 1) % 7}"]
            for n in range(400)
        }
        interactions = Interactions.of(purchases(histories))
        lists = self.make().fit(interactions).recommend(interactions.histories(), 5)
        assert np.isfinite(lists.scores).all() and (lists.products[:, 0] >= 0).all()

    def test_a_customer_with_very_many_purchases_is_cut_and_answered(self) -> None:
        many = 200_000
        rng = np.random.default_rng(1)
        bulk = pa.table({
            "customer_id": pa.array(["bulk"] * many), "product_id": pa.array([f"p{p:04d}" for p in rng.integers(3000, size=many)]),
            "ordered_at": pa.array(np.arange(many) * 60_000_000, pa.int64()).cast(pa.timestamp("us")),
            "quantity": pa.array(np.ones(many)),
        })  # fmt: skip
        table = pa.concat_tables([bulk, shop(products=3000).select(bulk.column_names)])
        interactions = Interactions.of(table)
        histories = interactions.histories()
        model = self.make().fit(interactions)
        lists = model.recommend(histories, 20)
        bought = set(histories.items[: histories.offsets[1]].tolist())
        assert len(bought) == 3000 and not bought & set(lists.products[0].tolist())


class TestPopularity(EveryModel):
    def make(self) -> Ranker:
        return Popularity()


class TestItemToItem(EveryModel):
    def make(self) -> Ranker:
        return ItemToItem()


class TestFollowUps(EveryModel):
    def make(self) -> Ranker:
        return ItemToItem(reach=0.8, backward=0.2, neighbours=20)


class TestEase(EveryModel):
    def make(self) -> Ranker:
        return Ease(l2=5.0, max_items=500)


class TestBlend(EveryModel):
    def make(self) -> Ranker:
        return Blend(Ease(l2=5.0, max_items=500), ItemToItem(reach=0.8, backward=0.2), 0.3)


def words(product_ids: Sequence[str]) -> NDArray[np.float32]:
    """A vector a product that depends on its id alone."""
    return np.stack(
        [np.random.default_rng(zlib.crc32(p.encode())).normal(size=16) for p in product_ids] or [np.zeros(16)]
    ).astype(np.float32)[: len(product_ids)]


def small(**changes: Any) -> Sequential:
    return Sequential(**({"texts": words, "dimensions": 16, "epochs": 2, "steps": 10} | changes))


class TestSequential(EveryModel):
    def make(self) -> Ranker:
        return small()


class TestMixture(EveryModel):
    def make(self) -> Ranker:
        return Mixture(small(), Blend(Ease(l2=5.0, max_items=500), ItemToItem(reach=0.8, backward=0.2), 0.3))


def test_every_kind_of_model_is_tested_here() -> None:
    tested = {type(c().make()) for c in EveryModel.__subclasses__()}
    assert tested == set(ranking.MODELS.values())


def test_equal_scores_are_listed_by_product_also_at_the_end_of_a_list() -> None:
    scores = np.array([[1, 2, 1, 1, 0, 2], [0, 0, 3, 0, 0, 0]], np.float32)
    assert top_of(scores, 3).products.tolist() == [[1, 5, 0], [2, -1, -1]]


def test_a_folder_without_a_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no ranker"):
        ranking.load(tmp_path)


def test_a_model_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    Popularity().fit(Interactions.of(shop())).save(tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(about | {"kind": "oracle"}))
    with pytest.raises(ModelRefused, match="oracle"):
        ranking.load(tmp_path)
