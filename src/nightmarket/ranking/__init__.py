"""Rankers behind one interface: fit · recommend · explain · save. A file a model; all pass the same tests.

Here: the shelf (popularity, item-to-item), EASE and the blend, the sequential transformer and its mixture with the
blend, and `load`. Not here: which of them serves (the
registry's alias), how they are compared (training/scorecard.py), what becomes of their lists (products).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nightmarket.errors import ModelNotFound, ModelRefused
from nightmarket.ranking.base import FORMAT, Contribution, Linear, Lists, Ranker, top_of
from nightmarket.ranking.blend import Blend
from nightmarket.ranking.ease import Ease
from nightmarket.ranking.interactions import HISTORY_CAP, Catalogue, Histories, Interactions, Texts, learnable
from nightmarket.ranking.item_to_item import ItemToItem
from nightmarket.ranking.mixture import Mixture
from nightmarket.ranking.popularity import Popularity
from nightmarket.ranking.sequential import Sequential

MODELS: dict[str, type[Ranker]] = {
    model.kind: model for model in (Popularity, ItemToItem, Ease, Blend, Sequential, Mixture)
}


def load(folder: Path) -> Ranker:
    """The ranker that `save` wrote into `folder`, whichever it is.

    Raises:
        ModelNotFound: the folder holds no ranker.
        ModelRefused: it is of a kind or format this version does not know, or its files are not those it was saved with.
    """
    from safetensors.numpy import load_file

    try:
        about = json.loads((folder / "model.json").read_text())
        weights = (folder / "model.safetensors").read_bytes()
        catalogue = Catalogue(tuple(json.loads((folder / "catalogue.json").read_text())))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFound(f"There is no ranker in {folder}: {error}") from error
    if about.get("format") != FORMAT or about.get("kind") not in MODELS:
        raise ModelRefused(
            f"{folder} holds a ranker of kind {about.get('kind')!r}, format {about.get('format')!r}; "
            f"this version reads format {FORMAT} of {', '.join(sorted(MODELS))}."
        )
    if hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise ModelRefused(f"{folder}/model.safetensors is not the file it was saved as (sha256 differs).")
    catalogue.require(about["catalogue"], f"{folder}/catalogue.json")
    del weights
    return MODELS[about["kind"]].restore(catalogue, about["params"], load_file(folder / "model.safetensors"))


__all__ = [
    "HISTORY_CAP", "MODELS", "Blend", "Catalogue", "Contribution", "Ease", "Histories", "Interactions", "ItemToItem",
    "Linear", "Lists", "Mixture", "Popularity", "Ranker", "Sequential", "Texts", "learnable", "load", "top_of",
]  # fmt: skip
