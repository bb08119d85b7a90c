"""What is tried when a ranker is trained, and how one is made from what was chosen.

The candidate is a mixture of a transformer over the order of purchases with a linear blend, or the blend alone where the
transformer adds nothing on validation purchases. Not here: the steps of a training (finetune), verdicts (scorecard).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightmarket import metrics, warehouse
from nightmarket.errors import ModelRefused
from nightmarket.ranking import (
    Blend,
    Ease,
    Interactions,
    ItemToItem,
    Mixture,
    Popularity,
    Ranker,
    Sequential,
    Texts,
)
from nightmarket.ranking.base import blocks
from nightmarket.settings import Settings
from nightmarket.training import scorecard
from nightmarket.training.examples import Examples, Questions

# A change here is a new recipe and calls for training again.
NAME = "mixture-1"
HALF_LIVES = (1.0, 2.0, 5.0, 20.0)  # orders
L2S = (30.0, 100.0, 300.0)
WEIGHTS = (0.1, 0.3, 1.0)
FOLLOW_UPS = {"reach": 0.8, "backward": 0.2}
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the transformer in the mixture; 0 leaves the blend alone."""
# Tuning looks at a part: half-lives, l2 and weights move the measure by much more than these 5,000 customers' noise
# against each other (they are paired), and a dense inverse of half the size costs an eighth. Where histories are long,
# fewer customers are asked: scoring costs what histories hold.
TUNING_CUSTOMERS = 5_000
TUNING_PURCHASES = 500_000
TUNING_ITEMS = 4_000


@dataclass(frozen=True)
class Chosen:
    """What tuning chose: parameters of the shelf's item-to-item, and of the candidate (`kind` and its `params()`).

    `fitted` is the mixture that tuning fitted on what came before the validation purchases, or None.
    """

    item_to_item: Mapping[str, Any]
    ranker: Mapping[str, Any]
    fitted: Mixture | None = None


def digest(settings: Settings) -> str:
    """A digest of everything beside the purchases and texts that decides what is trained."""
    return warehouse.digest(
        NAME, HALF_LIVES, L2S, WEIGHTS, SHARES, sorted(FOLLOW_UPS.items()), TUNING_CUSTOMERS, TUNING_PURCHASES, TUNING_ITEMS,
        settings.ease_max_items, settings.seed,
    )  # fmt: skip


def tuning_questions(frozen: Examples) -> Questions:
    """The validation questions that tuning asks: all of a small shop, a part of a large one."""
    per_customer = max(frozen.purchases.num_rows // max(frozen.customers, 1), 1)
    return frozen.questions(
        "validation", most=min(TUNING_CUSTOMERS, max(TUNING_PURCHASES // per_customer, 500))
    )


def tune(frozen: Examples, settings: Settings, texts: Texts | None, checkpoint: Path | None = None) -> Chosen:
    """Choose everything on validation purchases: the linear parts first, then the transformer's share.

    Without validation purchases (every customer bought twice at most) the first choices hold, and the blend is alone:
    there is no order to learn from.
    """
    plain, blend = tune_blend(frozen, settings)
    questions = tuning_questions(frozen)
    if not len(questions):
        return Chosen(plain, {"kind": Blend.kind, **blend})
    before = frozen.before("validation")
    mixture = Mixture(
        Sequential(texts=texts, seed=settings.seed, checkpoint=checkpoint), Blend.of(blend, texts)
    ).fit(before)
    mixture.share = best_share(mixture, questions)
    if mixture.share == 0:
        return Chosen(plain, {"kind": Blend.kind, **blend}, mixture)
    return Chosen(plain, {"kind": Mixture.kind, **mixture.params()}, mixture)


def build(
    ranker: Mapping[str, Any],
    before: Interactions,
    texts: Texts | None,
    *,
    like: Ranker | None = None,
    start: Ranker | None = None,
    fresh: Collection[str] | None = None,
    checkpoint: Path | None = None,
) -> Ranker:
    """The ranker that these parameters describe, fitted on `before`.

    Args:
        like: a ranker fitted on the same purchases; its transformer is taken if the recipe is the same.
        start: a ranker fitted on earlier purchases; where its transformer is of this recipe, it is gone on from.
        fresh: the customers who bought since `start` was fitted.
        checkpoint: a folder from which a killed training of the transformer resumes.

    Raises:
        ModelRefused: parameters of a kind that no recipe makes.
    """
    params = {name: value for name, value in ranker.items() if name != "kind"}
    if ranker["kind"] == Blend.kind:
        return Blend.of(params, texts).fit(before)
    if ranker["kind"] != Mixture.kind:
        raise ModelRefused(f"A ranker of kind {ranker['kind']!r} is not made by training.")
    blend = Blend.of(params["blend"], texts).fit(before)
    if isinstance(like, Mixture) and like.sequential.params() == params["sequential"]:
        sequential = like.sequential
    else:
        begun = start.sequential if isinstance(start, Mixture) else None
        if begun is not None and begun.params() != params["sequential"]:
            begun = None
        sequential = Sequential(
            texts=texts, start=begun, fresh=fresh, checkpoint=checkpoint, **params["sequential"]
        ).fit(before)
    return Mixture(sequential, blend, params["share"])


def best_share(mixture: Mixture, questions: Questions) -> float:
    """The share of the transformer that ranks the targets best (NDCG@10, the smaller of equals). Scores each row once."""
    gains = np.zeros(len(SHARES))
    histories, targets = questions.histories, questions.targets
    for begin, end in blocks(len(questions), 2 * len(mixture.catalogue)):
        block, wanted = histories.slice(begin, end), targets[begin:end]
        first, second = mixture.views(block)
        seen = np.repeat(np.arange(end - begin), np.diff(block.offsets)), block.items
        for n, share in enumerate(SHARES):
            gains[n] += float(
                metrics.ndcg(_places(share * first + (1 - share) * second, seen, wanted), 10).sum()
            )
    return SHARES[int(np.argmax(gains))]


def _places(scores: NDArray[np.float32], seen: Any, targets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where each row's target stands among the products not seen before, equal scores by code; -1: it scores nothing."""
    scores[seen] = 0
    own = scores[np.arange(len(targets)), targets]
    above = (scores > own[:, None]).sum(axis=1)
    level = (scores == own[:, None]) & (np.arange(scores.shape[1]) < targets[:, None])
    return np.where(own > 0, above + level.sum(axis=1), -1)


def tune_blend(frozen: Examples, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the shelf's item-to-item and of the blend, chosen on validation one after the other."""
    questions = tuning_questions(frozen)
    items = min(settings.ease_max_items, TUNING_ITEMS)
    plain, follow, ease = ItemToItem(), ItemToItem(**FOLLOW_UPS), Ease(L2S[1], max_items=items)  # type: ignore[arg-type]
    blend = Blend(ease, follow, WEIGHTS[1])
    if len(questions):
        before = frozen.before("validation")
        popularity = Popularity().fit(before)

        def gain(model: Any) -> float:
            return scorecard.measure(model, popularity, questions).averages[scorecard.MEASURE]

        plain.fit(before)
        plain.half_life = max(HALF_LIVES, key=lambda h: (gain(_with(plain, half_life=h)), -h))
        follow.fit(before)
        follow.half_life = max(HALF_LIVES, key=lambda h: (gain(_with(follow, half_life=h)), -h))
        best: tuple[float, float, float] | None = None
        for l2 in L2S:
            trial = Ease(l2, max_items=items).fit(before)
            for half_life in HALF_LIVES:
                scored = (gain(_with(trial, half_life=half_life)), -half_life, l2)
                if best is None or scored > best:
                    best, ease = scored, _with(trial, half_life=half_life)
        if best is not None:
            ease.half_life = -best[1]  # the loop went on with the same model
        blend = Blend(ease, follow, WEIGHTS[1])
        blend.catalogue = frozen.catalogue
        blend.weight = max(WEIGHTS, key=lambda w: (gain(_with(blend, weight=w)), -w))
    chosen = blend.params()
    chosen["ease"]["max_items"] = settings.ease_max_items
    return plain.params(), chosen


def _with(model: Any, **changed: Any) -> Any:
    """The same fitted model with other numbers that only count when it scores."""
    for name, value in changed.items():
        setattr(model, name, value)
    return model
