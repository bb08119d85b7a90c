"""The steps of `finetune_models`: freeze examples, train a challenger, let the gate decide.

Each step can be killed and run again: the same purchases and recipe give one run and one version, ever. Nothing is
trained while the last training is fresh (`retrain_after_days`, `retrain_share`). Not here: splits (examples), the gate's
rules (scorecard), aliases (tracking).
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket import lake, tracking, warehouse
from nightmarket.ledger import Outcome
from nightmarket.ranking import Blend, Ease, Histories, ItemToItem, Popularity
from nightmarket.settings import Settings, get_settings
from nightmarket.training import examples, scorecard
from nightmarket.training.examples import Examples
from nightmarket.training.scorecard import Score

TASK = "ranking"
DAG = "finetune_models"

# The recipe: what is tried, on validation only. A change here is a new recipe and calls for training again.
RECIPE = "blend-1"
HALF_LIVES = (1.0, 2.0, 5.0, 20.0)  # orders
L2S = (30.0, 100.0, 300.0)
WEIGHTS = (0.1, 0.3, 1.0)
FOLLOW_UPS = {"reach": 0.8, "backward": 0.2}
# Tuning looks at a part: half-lives, l2 and weights move the measure by much more than these 5,000 customers' noise
# against each other (they are paired), and a dense inverse of half the size costs an eighth. Where histories are long,
# fewer customers are asked: scoring costs what histories hold.
TUNING_CUSTOMERS = 5_000
TUNING_PURCHASES = 500_000
TUNING_ITEMS = 4_000


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
    digest = warehouse.digest(recipe(settings), manifest.content_hash)
    found = tracking.find(TASK, digest)
    if found is None:
        frozen = examples.load(day)
        if len(frozen.catalogue) < 2 or len(frozen.questions("test")) == 0:
            return Outcome(
                rows_in=manifest.rows,
                note="too little to learn from: no customer came back for another product",
            )
        scratch = Path(tempfile.mkdtemp(prefix=".training-", dir=settings.state))
        try:
            found = tracking.register(
                TASK, _trained(frozen, manifest, digest, day, run_id, scratch, settings)
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Outcome(
        rows_in=manifest.rows, rows_out=1, note=f"version {found.version} from {manifest.rows} purchases"
    )


def promote(day: date, run_id: str) -> Outcome:
    """Let the gate decide about the challenger and write the decision down; a refusal is no error.

    A champion that somebody chose in MLflow by hand is written down first, and holds.
    """
    held = tracking.reconcile(TASK)
    waiting = tracking.challenger(TASK)
    if waiting is None or "decision" in waiting.tags:
        return Outcome(note=f"champion: version {held.version}" if held else "no champion: the shelf serves")
    report = _report_of(waiting)
    now = held.version if held else None
    if report.get("champion") != now and held is not None and now != waiting.version:
        reason = f"version {now} became champion after version {waiting.version} was measured against another"
        tracking.refuse(TASK, waiting.version, reason=reason, gate_report=report)
        return Outcome(rows_in=1, note=f"version {waiting.version} refused: {reason}")
    if not report.get("promote"):
        reason = str(report.get("reason", "it carries no gate report"))
        tracking.refuse(TASK, waiting.version, reason=reason, gate_report=report)
        return Outcome(rows_in=1, note=f"version {waiting.version} refused: {reason}")
    tracking.promote(TASK, waiting.version, reason=str(report["reason"]), gate_report=report)
    return Outcome(rows_in=1, rows_out=1, note=f"version {waiting.version} is champion: {report['reason']}")


def recipe(settings: Settings) -> str:
    """A digest of everything beside the purchases that decides what is trained."""
    return warehouse.digest(
        RECIPE, HALF_LIVES, L2S, WEIGHTS, sorted(FOLLOW_UPS.items()), TUNING_CUSTOMERS, TUNING_PURCHASES, TUNING_ITEMS,
        settings.ease_max_items, settings.seed,
    )  # fmt: skip


def _due(day: date, settings: Settings) -> tuple[bool, str]:
    """Is it time to train? With the reason when it is not."""
    rows = lake.require("purchases", day)
    tried = [v for v in tracking.versions(TASK) if v.tags.get("recipe") == recipe(settings)]
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
class _Fitted:
    """Models fitted on the same purchases."""

    popularity: Popularity
    item_to_item: ItemToItem
    blend: Blend


def _trained(
    frozen: Examples,
    manifest: lake.Manifest,
    digest: str,
    day: date,
    run_id: str,
    scratch: Path,
    settings: Settings,
) -> tracking.Training:
    """Tune, measure once, fit on everything, and write the files to be registered into `scratch`."""
    plain, tuned = tune(frozen, settings)
    held = tracking.champion(TASK)
    theirs = held.params.get("blend") if held is not None and "blend" in held.params else None
    before, questions = frozen.before("test"), frozen.questions("test")
    fitted = _Fitted(Popularity().fit(before), ItemToItem(**plain).fit(before), Blend.of(tuned).fit(before))
    score = scorecard.measure(fitted.blend, fitted.popularity, questions)
    shelf = {
        "popularity": scorecard.measure(fitted.popularity, fitted.popularity, questions),
        "item_to_item": scorecard.measure(fitted.item_to_item, fitted.popularity, questions),
    }
    chosen, kept, rival = tuned, False, None
    if held is not None and theirs is not None:
        rival = (
            score
            if theirs == tuned
            else scorecard.measure(Blend.of(theirs).fit(before), fitted.popularity, questions)
        )
        if not scorecard.certainly_better(score, rival, settings.seed):
            chosen, score, kept = theirs, rival, True
    report = scorecard.report(
        candidate=score, shelf=shelf, champion=(held.version, rival) if held and rival else None, kept_recipe=kept,
        seed=settings.seed,
    )  # fmt: skip
    everything = frozen.everything()
    files = scratch / "model"
    serving = Blend.of(chosen).fit(everything)
    serving.save(files / "ranker")
    popularity = Popularity().fit(everything)
    popularity.save(files / "popularity")
    if not report["promote"]:  # then the shelf may have to serve, the same one until the next training
        ItemToItem(**plain).fit(everything).save(files / "item_to_item")
    purchases = lake.require("purchases", day)
    params = {
        "base_model": "none (closed form)", "recipe": RECIPE, "seed": settings.seed, "window": "all purchases",
        "blend": chosen, "item_to_item": plain,
    }  # fmt: skip
    card = _card(day, manifest, frozen, params, report, settings)
    return tracking.Training(
        day=day, run_id=run_id, dag_id=DAG, inputs_digest=digest, params=params, metrics=_metrics(score, shelf, report),
        datasets=[
            tracking.DataSet("purchases", purchases.content_hash, "marts.purchases", day, purchases.rows, "source"),
            tracking.DataSet(examples.NAME, manifest.content_hash, f"lake.{examples.NAME}", day, manifest.rows, "training"),
        ],
        model=files, loader="nightmarket.ranking.served", example=_example(popularity), requirements=_requirements(),
        documents={"model_card.md": card, "gate_report.json": _json(report)},
        tags={
            "recipe": recipe(settings), "purchases_digest": purchases.content_hash, "purchases": str(purchases.rows),
            "gate_report": _json(report), "shelf": "no" if report["promote"] else "yes",
        },
    )  # fmt: skip


def tune(frozen: Examples, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the shelf's item-to-item and of the blend, chosen on validation one after the other.

    Without validation purchases (every customer bought twice at most) the first choices hold.
    """
    per_customer = max(frozen.purchases.num_rows // max(frozen.customers, 1), 1)
    questions = frozen.questions(
        "validation", most=min(TUNING_CUSTOMERS, max(TUNING_PURCHASES // per_customer, 500))
    )
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


def _requirements() -> list[str]:
    return [
        f"{name}=={importlib.metadata.version(name)}"
        for name in ("mlflow", "numpy", "pandas", "pyarrow", "safetensors", "scipy")
    ]


def _report_of(version: tracking.Version) -> dict[str, Any]:
    return dict(json.loads(version.tags.get("gate_report", "{}")))


def _json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1, sort_keys=True)


def _card(
    day: date, manifest: lake.Manifest, frozen: Examples, params: Mapping[str, Any], report: Mapping[str, Any],
    settings: Settings,
) -> str:  # fmt: skip
    """The model card."""
    blend = params["blend"]
    rows = [("this model", report["candidate"]), *report["shelf"].items()]
    names = ("ndcg_10", "recall_10", "ndcg_20", "recall_20", "mrr_20", "coverage_20")
    table = "\n".join(
        f"| {name} | " + " | ".join(f"{values[n]:.4f}" for n in names) + " |" for name, values in rows
    )
    against = "\n".join(
        f"- against {c['against']}: {c['mean']:+.4f}, 95 % interval {c['low']:+.4f} to {c['high']:+.4f}"
        for c in report["comparisons"]
    )
    return f"""# Ranker `nightmarket.{TASK}`, day {day}

Ranks products for a customer by what the customer bought, latest first. EASE (closed form, l2 {blend["ease"]["l2"]:g},
history halved every {blend["ease"]["half_life"]:g} orders, at most {blend["ease"]["max_items"]} products) plus
{blend["weight"]:g} times item-to-item follow-ups (halved every {blend["item_to_item"]["half_life"]:g} orders).

## Data

{manifest.rows} purchases of {frozen.customers} customers and {len(frozen.catalogue)} products before {day}, from `marts.purchases`
(no bots, nobody who refused training or profiling). Content hash of the frozen examples: `{manifest.content_hash}`.

## How it was measured

The recipe was measured on {report["examples"]} customers: of each one's last order that brought a new product, one such
product was held out (seed {settings.seed}) and everything from that order on was kept from training. All products are
ranked, those bought before are left out, empty places hold popular products. Half-lives, l2 and the weight were chosen
on the order before that one; the held-out purchases were asked once.

**The model in this version is fitted on all purchases, the held-out ones included**, after the recipe was measured.

| | {" | ".join(names)} |
|---|{"---|" * len(names)}
{table}

NDCG@10, paired over customers:

{against}

Gate: {"promote" if report["promote"] else "refuse"}: {report["reason"]}.

## Limits

It knows products that somebody bought; a new product has no score here. Customers without purchases get popular
products. It says what is bought together and next, not what a recommendation would change.

## Files

`ranker/` and `popularity/`, and `item_to_item/` where the gate refused; each safetensors and JSON. Load with
`nightmarket.ranking.load(folder / "ranker")`, or as an MLflow pyfunc where the package `nightmarket` is installed.
"""
