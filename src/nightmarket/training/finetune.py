"""The steps of `finetune_models`: freeze examples, train a challenger, let the gate decide.

Each step can be killed and run again: the same purchases and recipe give one run and one version, ever. Nothing is
trained while the last training is fresh (`retrain_after_days`, `retrain_share`). Not here: splits (examples), the gate's
rules (scorecard), aliases (tracking).
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import encoder, lake, ranking, tracking, warehouse
from nightmarket.ledger import Outcome
from nightmarket.ranking import Catalogue, Histories, ItemToItem, Mixture, Popularity, Ranker, Texts
from nightmarket.ranking.texts import texts_of
from nightmarket.settings import Settings, get_settings
from nightmarket.training import (
    card,
    examples,
    faithfulness,
    recipe,
    scorecard,
    shadow,
    slices,
    stepping,
    verdict,
    worst,
)
from nightmarket.training.examples import Examples
from nightmarket.training.scorecard import Score
from nightmarket.training.verdict import REPORT

TASK = "ranking"
DAG = "finetune_models"

# Beyond this many purchases the split by time is left out: it is one more fit of everything.
IN_TIME_PURCHASES = 500_000
# With more than this share of purchases new, what serves is trained from scratch: on a shop with a quarter of them new, going
# on from the old network gave NDCG@10 .127 where a fresh one gave .137.
WARM_SHARE = 0.05
SHADOW_CUSTOMERS = 2_000
"""Customers whose shadow lists a challenger writes before it can become champion."""


def build_examples(day: date, run_id: str) -> Outcome:
    """Freeze the day's training set and hold it against its gate; nothing when training is not due.

    Raises:
        QualityGateFailed: the training set broke its suite; nothing is trained.
    """
    settings = get_settings()
    due, note = _due(day, settings)
    if not due:
        return Outcome(note=note)
    manifest, made = examples.freeze(day, seed=settings.seed)
    if manifest.rows == 0:
        return Outcome(note="no purchases yet: nothing to learn from")
    from nightmarket import quality

    quality.check(examples.NAME, lake.read(examples.NAME, day), day, run_id=run_id)
    return Outcome(
        rows_in=manifest.rows, rows_out=manifest.rows if made else 0, note="" if made else "unchanged"
    )


def train(day: date, run_id: str) -> Outcome:
    """Tune, measure and fit a challenger, and register it; nothing when training is not due.

    Hyper-parameters are chosen on the validation purchases, the test purchases are asked once, and what is registered is
    then fitted on all purchases. The same examples and recipe that were registered before give that version again.
    """
    settings = get_settings()
    due, note = _due(day, settings)
    if not due:
        return Outcome(note=note)
    manifest = lake.require(examples.NAME, day)
    if manifest.rows == 0:
        return Outcome(note="no purchases yet: recommendations use the shelf")
    digest = warehouse.digest(recipe.digest(settings), manifest.content_hash)
    found = tracking.find(TASK, digest)
    if found is None:
        catalogue = lake.read("products", day)
        frozen = _examples(day, catalogue)
        if len(frozen.catalogue) < 2 or len(frozen.questions("test")) == 0:
            return Outcome(
                rows_in=manifest.rows,
                note="too little to learn from: no customer came back for another product",
            )
        with stepping.scratch(TASK, digest) as folder:
            work = _Work(day, run_id, digest, manifest, catalogue, frozen, folder, settings)
            found = tracking.register(TASK, _trained(work))
    return Outcome(
        rows_in=manifest.rows, rows_out=1, note=f"version {found.version} from {manifest.rows} purchases"
    )


def promote(day: date, run_id: str) -> Outcome:
    """Let the gate decide about the challenger and write the decision down; a refusal is no error.

    A champion that somebody chose in MLflow by hand is written down first, and holds.
    """
    return verdict.decide(TASK, nobody="the shelf serves")


def _due(day: date, settings: Settings) -> tuple[bool, str]:
    """Is it time to train? With the reason when it is not."""
    rows = lake.require("purchases", day)
    tried = [v for v in tracking.versions(TASK) if v.tags.get("recipe") == recipe.digest(settings)]
    if not tried:
        return True, ""
    last = tried[-1]
    held = tracking.champion(TASK)
    kept = f"champion kept (version {held.version})" if held else "no champion, the shelf is kept"
    if last.tags.get("purchases_digest") == rows.content_hash:
        return False, f"{kept}: trained on these purchases already (version {last.version})"
    trained_on, before = date.fromisoformat(last.tags["day"]), max(int(last.tags.get("purchases", "0")), 1)
    if day < trained_on:
        return False, f"{kept}: version {last.version} was trained for a later day, {trained_on}"
    share, age = (rows.rows - before) / before, (day - trained_on).days
    if share < settings.retrain_share and age < settings.retrain_after_days:
        return False, f"{kept}: {share:.1%} new purchases since version {last.version}, {age} days ago"
    return True, ""


@dataclass(frozen=True)
class _Work:
    """One training: for which day, from which examples and texts, with which settings, in which folder."""

    day: date
    run_id: str
    digest: str
    manifest: lake.Manifest
    catalogue: pa.Table
    frozen: Examples
    scratch: Path
    settings: Settings

    def checkpoint(self, name: str) -> Path:
        return self.scratch / f"checkpoint-{name}"


def _examples(day: date, catalogue: pa.Table) -> Examples:
    """The frozen examples, coded with every product that was bought or is on sale."""
    bought = lake.read(examples.NAME, day, ["product_id"])["product_id"]
    on_sale = catalogue
    if "is_available" in catalogue.column_names:
        on_sale = catalogue.filter(catalogue["is_available"])
    ids = pa.chunked_array([*bought.chunks, *on_sale["product_id"].chunks], pa.string())
    return examples.load(day, catalogue=Catalogue.of(ids))


def _texts(work: _Work) -> tuple[Texts | None, int]:
    """The texts of the catalogue within the night's budget, most bought first; and how many wait for another night."""
    if not {"title", "brand", "category"} & set(work.catalogue.column_names):
        return None, 0
    encoder.as_of(work.day)
    codes = work.frozen.catalogue.codes(work.catalogue["product_id"])
    counts = np.bincount(
        work.frozen.catalogue.codes(work.frozen.purchases["product_id"]), minlength=len(work.frozen.catalogue)
    )
    buyers = np.where(codes >= 0, counts[np.maximum(codes, 0)], -1).astype(np.float64)
    return texts_of(work.catalogue, first=buyers, most=work.settings.texts_embedded_per_night)


def _trained(work: _Work) -> tracking.Training:
    """Tune, measure once, fit on everything, and write the files to be registered."""
    settings, frozen = work.settings, work.frozen
    texts, waiting = _texts(work)
    chosen = recipe.tune(frozen, settings, texts, work.checkpoint("validation"))
    held = tracking.champion(TASK)
    theirs = _recipe_of(held)
    before, questions = frozen.before("test"), frozen.questions("test")
    popularity = Popularity().fit(before)
    categories = _categories(work)

    def measured(ranker: Ranker) -> Score:
        return scorecard.measure(ranker, popularity, questions, learnt=before, categories=categories)

    candidate = recipe.build(chosen.ranker, before, texts, checkpoint=work.checkpoint("test"))
    score = measured(candidate)
    shelf = {
        "popularity": measured(popularity),
        "item_to_item": measured(ItemToItem(**chosen.item_to_item).fit(before)),
    }
    rival, kept, ranker = None, False, chosen.ranker
    if held is not None and theirs is not None:
        same = theirs == chosen.ranker
        other = candidate if same else recipe.build(theirs, before, texts, like=candidate)
        rival = score if same else measured(other)
        if not scorecard.certainly_better(score, rival, settings.seed):
            candidate, score, ranker, kept = other, rival, theirs, True
    masks = slices.of(questions, before, locales=_locales(work))
    reasons = faithfulness.measure(candidate, questions.histories, seed=settings.seed)
    report = scorecard.report(
        candidate=score, shelf=shelf, champion=(held.version, rival) if held and rival else None, kept_recipe=kept,
        seed=settings.seed, slices=masks, in_time=_in_time(work, ranker, chosen.item_to_item, texts),
        budgets=scorecard.Budgets.of(settings),
    ) | {"faithfulness": reasons._asdict()}  # fmt: skip
    everything = frozen.everything()
    files = work.scratch / "model"
    shutil.rmtree(files, ignore_errors=True)
    start, fresh = _start(work, held)
    serving = recipe.build(
        ranker, everything, texts, start=start, fresh=fresh, checkpoint=work.checkpoint("everything")
    )
    serving.save(files / "ranker")
    popularity = Popularity().fit(everything)
    popularity.save(files / "popularity")
    if any(not np.isfinite(a).all() for a in serving.arrays().values() if a.dtype.kind == "f"):
        reason = "what would serve holds numbers that are not finite"
        report |= {"promote": False, "reason": reason}
    shelf_serving = ItemToItem(**chosen.item_to_item).fit(everything)
    if not report["promote"]:  # then the shelf may have to serve, the same one until the next training
        shelf_serving.save(files / "item_to_item")
    report["shadow"], pages = _shadow(work, serving, popularity, held, shelf_serving)
    reference = max(shelf, key=lambda name: shelf[name].averages[scorecard.MEASURE])
    pages["worst_examples.html"] = worst.page(
        worst.examples(score, questions, masks, candidate, seed=settings.seed, against=shelf[reference]),
        frozen.catalogue.product_ids, _titles(work), model=f"{TASK}, {work.day}", against=reference,
        sizes={name: int(mask.sum()) for name, mask in masks.items()},
    )  # fmt: skip
    (files / REPORT).write_text(_json(report))
    purchases = lake.require("purchases", work.day)
    params = {
        "base_model": "none (trained from scratch)", "recipe": recipe.NAME, "seed": settings.seed,
        "window": "all purchases", "texts_waiting": waiting, "ranker": ranker, "item_to_item": dict(chosen.item_to_item),
    }  # fmt: skip
    return tracking.Training(
        day=work.day, run_id=work.run_id, dag_id=DAG, inputs_digest=work.digest, params=params,
        metrics=_metrics(score, shelf, report) | {"faithfulness": reasons.share},
        datasets=[
            tracking.DataSet("purchases", purchases.content_hash, "marts.purchases", work.day, purchases.rows, "source"),
            tracking.DataSet(
                examples.NAME, work.manifest.content_hash, f"lake.{examples.NAME}", work.day, work.manifest.rows, "training"
            ),
        ],
        model=files, loader="nightmarket.ranking.served", example=_example(popularity),
        requirements=_requirements(ranker["kind"]),
        documents={"model_card.md": card.text(work.day, work.manifest, frozen, params, report), REPORT: _json(report)} | pages,
        tags={
            "recipe": recipe.digest(settings), "purchases_digest": purchases.content_hash, "purchases": str(purchases.rows),
            "gate_report": _json(scorecard.summary(report)), "shelf": "no" if report["promote"] else "yes",
        },
    )  # fmt: skip


def _recipe_of(held: tracking.Version | None) -> dict[str, Any] | None:
    """What the champion was made with, or None where it cannot be made again."""
    if held is None:
        return None
    params = held.params.get("ranker")
    return dict(params) if isinstance(params, Mapping) and "kind" in params else None


def _start(work: _Work, held: tracking.Version | None) -> tuple[Ranker | None, list[str] | None]:
    """The champion to go on from and the customers who bought since it was trained; none where too much is new.

    Only what serves begins there, never what is measured: the champion has learnt the purchases that are held out.
    """
    if held is None or "day" not in held.tags:
        return None, None
    since = datetime.combine(date.fromisoformat(held.tags["day"]), time.min)
    bought = work.frozen.purchases
    new = bought.filter(pc.greater_equal(bought["ordered_at"].cast(pa.timestamp("us")), pa.scalar(since)))
    if new.num_rows > WARM_SHARE * bought.num_rows:
        return None, None
    return ranking.load(held.path / "ranker"), pc.unique(new["customer_id"]).to_pylist()


def _in_time(
    work: _Work, ranker: Mapping[str, Any], plain: Mapping[str, Any], texts: Texts | None
) -> scorecard.InTime | None:
    """The recipe on the split by the clock, or None where the shop is too large or too young for it."""
    frozen = work.frozen
    if frozen.purchases.num_rows > IN_TIME_PURCHASES:
        return None
    cut = frozen.time_cut()
    questions, before = frozen.questions_in_time(cut, seed=work.settings.seed), frozen.before_time(cut)
    if len(questions) < scorecard.LEAST_EXAMPLES or not len(before):
        return None
    popularity = Popularity().fit(before)
    candidate = recipe.build(ranker, before, texts, checkpoint=work.checkpoint("time"))
    models: dict[str, Ranker] = {"popularity": popularity, "item_to_item": ItemToItem(**plain).fit(before)}
    shelf = {name: scorecard.measure(model, popularity, questions) for name, model in models.items()}
    return scorecard.InTime(
        scorecard.measure(candidate, popularity, questions), shelf, slices.of(questions, before, locales=_locales(work))
    )  # fmt: skip


def _shadow(
    work: _Work, serving: Ranker, popularity: Popularity, held: tracking.Version | None, plain: ItemToItem
) -> tuple[dict[str, Any], dict[str, str]]:
    """Lists nobody is shown, of customers drawn by id, kept in the lake; how they differ from what serves, and a page.

    What serves is the champion, or the shelf's item-to-item where there is none.
    """
    customers = sorted(pc.unique(work.frozen.purchases["customer_id"]).to_pylist())
    drawn = sorted(sorted(customers, key=lambda c: zlib.crc32(c.encode()))[:SHADOW_CUSTOMERS])
    histories = Histories.of(work.frozen.purchases, work.frozen.catalogue, drawn)
    champion = ranking.load(held.path / "ranker") if held else plain
    theirs = ranking.load(held.path / "popularity") if held else None
    allowed = None
    if "is_available" in work.catalogue.column_names:
        allowed = work.catalogue.filter(work.catalogue["is_available"])["product_id"]
    lists, difference = shadow.shadow(
        serving, champion, popularity, histories, work.settings.recommendations_per_customer,
        champion_popularity=theirs if isinstance(theirs, Popularity) else None, allowed_ids=allowed,
    )  # fmt: skip
    lake.write(shadow.NAME, work.day, lists, key=shadow.KEY)
    title = f"version {held.version}" if held else "item-to-item of the shelf"
    return difference, {"shadow.html": shadow.page(difference, _titles(work), champion=title)}


def _titles(work: _Work) -> dict[str, str]:
    if "title" not in work.catalogue.column_names:
        return {}
    rows = zip(work.catalogue["product_id"].to_pylist(), work.catalogue["title"].to_pylist(), strict=True)
    return {product: title for product, title in rows if title}


def _categories(work: _Work) -> NDArray[np.int32] | None:
    """The first step of each product's category path as a code, -1 for none."""
    if "category" not in work.catalogue.column_names:
        return None
    found = np.full(len(work.frozen.catalogue), -1, np.int32)
    names: dict[str, int] = {}
    codes = work.frozen.catalogue.codes(work.catalogue["product_id"])
    for code, path in zip(codes.tolist(), work.catalogue["category"].to_pylist(), strict=True):
        if code >= 0 and path:
            found[code] = names.setdefault(path.split(">")[0].strip(), len(names))
    return found if names else None


def _locales(work: _Work) -> dict[str, str | None] | None:
    """Customer id to locale, where the day's extract knows them."""
    if lake.manifest("customers", work.day) is None:
        return None
    known = lake.read("customers", work.day, ["customer_id", "locale"])
    return dict(zip(known["customer_id"].to_pylist(), known["locale"].to_pylist(), strict=True))


def _metrics(score: Score, shelf: Mapping[str, Score], report: Mapping[str, Any]) -> dict[str, float]:
    """The challenger's measures under their own names, each shelf model's beside them, and the paired intervals."""
    flat = dict(score.averages)
    for name, theirs in shelf.items():
        flat |= {f"{name}.{measure}": value for measure, value in theirs.averages.items()}
    for comparison in report["comparisons"]:
        name = comparison["against"].replace(" ", "_")
        flat |= {f"over_{name}.{bound}": comparison[bound] for bound in ("mean", "low", "high")}
    return flat | {"examples": float(report["examples"])}


def _example(popularity: Popularity) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """An input and what the model says to it: the two most bought products, nobody's own history."""
    catalogue = popularity.catalogue
    nothing = np.zeros(0, np.int32)
    nobody = Histories(("nobody",), np.zeros(2, np.int64), nothing, nothing, catalogue.digest)
    popular = [catalogue.product_ids[p] for p in popularity.recommend(nobody, 2).products[0] if p >= 0]
    return {"history": [popular]}, {"product_ids": [popular], "scores": [[1.0] * len(popular)]}


def _requirements(kind: str) -> list[str]:
    more = ["torch"] if kind == Mixture.kind else []
    return tracking.pinned("mlflow", "numpy", "pandas", "pyarrow", "safetensors", "scipy", *more)


def _json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1, sort_keys=True)
