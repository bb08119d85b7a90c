"""Which model ranks tonight, by name and version, and where its files stand; nothing is loaded before somebody asks.

The champion serves; where there is none the shelf of the last training, so that lists stay put; else an item-to-item of
the day's purchases. `Serving` is small and picklable: a process that is handed one loads the model once. Not here: how a
model becomes champion (training), what its scores become (lists, similar).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

from nightmarket import lake, ranking, tracking, warehouse
from nightmarket.ranking import Interactions, ItemToItem, Linear, Popularity, Ranker
from nightmarket.settings import get_settings

FAITHFUL = 0.9
"""Reasons are shown when removing the named products hurts more than removing others in this share of lists."""


@dataclass(frozen=True)
class Serving:
    """What ranks tonight.

    Attributes:
        name: what rows carry as `model_name`.
        version: of that model.
        ranker_at: the folder of the ranker.
        popularity_at: the folder of what fills lists and serves without anybody's traits.
        together_at: the folder of the item-to-item that says what is bought together, or None.
        faithfulness: what the version's training measured of its reasons, or None.
    """

    name: str
    version: str
    ranker_at: Path
    popularity_at: Path
    together_at: Path | None
    faithfulness: float | None = None

    @property
    def kind(self) -> str:
        """The ranker's kind, read from its description alone."""
        return str(json.loads((self.ranker_at / "model.json").read_text())["kind"])

    @property
    def reasons_hold(self) -> bool:
        """Whether the causes that the ranker names may be shown: measured to be faithful, or exact by construction."""
        if self.faithfulness is not None:
            return self.faithfulness >= FAITHFUL
        return issubclass(ranking.MODELS.get(self.kind, Ranker), Linear)

    def ranker(self) -> Ranker:
        """The model, loaded once a process."""
        return _loaded(self.ranker_at, self.version)

    def popularity(self) -> Popularity:
        """What sells, on the ranker's catalogue; loaded once a process."""
        loaded = _loaded(self.popularity_at, self.version)
        assert isinstance(loaded, Popularity)
        return loaded

    def together(self) -> Ranker:
        """What says which products are bought together: counted or linear, never a guess from texts."""
        if self.together_at is not None:
            return _loaded(self.together_at, self.version)
        ranker = self.ranker()
        linear: Ranker = getattr(ranker, "blend", ranker)
        return linear if not isinstance(ranker, Linear) else ranker


def current(day: date) -> Serving:
    """What serves on a day; fits and keeps a shelf where nothing was ever trained."""
    held = tracking.champion("ranking")
    if held is not None:
        together = held.path / "item_to_item"
        faithfulness = held.metrics.get("faithfulness", held.metrics.get("faithfulness_10"))
        return Serving(
            "nightmarket.ranking", held.version, held.path / "ranker", held.path / "popularity",
            together if together.exists() else None, faithfulness,
        )  # fmt: skip
    kept = _kept_shelf()
    if kept is not None:
        version = _shelf_version(kept.tags.get("inputs_digest", ""))
        shelf = kept.path / "item_to_item"
        return Serving(ItemToItem.kind, version, shelf, kept.path / "popularity", shelf)
    version = _shelf_version(lake.require("purchases", day).content_hash)
    folder = _fitted(day, version)
    shelf = folder / "item_to_item"
    return Serving(ItemToItem.kind, version, shelf, folder / "popularity", shelf)


def label() -> str:
    """Which model would serve, for digests; asks the registry and loads nothing."""
    held, shelf = tracking.champion("ranking"), _kept_shelf()
    return held.version if held else f"shelf of {shelf.version}" if shelf else "shelf of the day"


def _kept_shelf() -> tracking.Version | None:
    """The last training that the gate refused: its shelf serves while there is no champion, so lists stay put."""
    return next((v for v in reversed(tracking.versions("ranking")) if v.tags.get("shelf") == "yes"), None)


def _shelf_version(digest: str) -> str:
    return warehouse.digest(ItemToItem.kind, digest)[:12]


def _fitted(day: date, version: str) -> Path:
    """The folder of a shelf of the day's purchases; fitted at the first call, and the only one that is kept."""
    root = get_settings().state / "shelf"
    folder, scratch = root / version, root / f".{version}"
    if folder.exists():
        return folder
    purchases = lake.read("purchases", day, ["customer_id", "product_id", "ordered_at", "may_train"])
    interactions = Interactions.of(ranking.learnable(purchases))
    shutil.rmtree(root, ignore_errors=True)
    ItemToItem().fit(interactions).save(scratch / "item_to_item")
    Popularity().fit(interactions).save(scratch / "popularity")
    scratch.rename(folder)
    return folder


@lru_cache(maxsize=3)
def _loaded(folder: Path, version: str) -> Ranker:
    """A ranker from its files; the version tells apart what stood in one folder at different times."""
    return ranking.load(folder)
