"""Which base model a shop's writer should be made of: candidates tuned on 16, 64, 256 of the shop's own pairs and compared.

Every candidate of `writers.toml` writes about the same held-out products, untouched and after each tuning; the scorecard
shows how much its own publishable sentences tell, how much data that took, its size, memory, time and price. Each candidate
is tried in a process of its own, so that one that does not fit the machine costs its own line only. Not here: what
candidates there are (candidates), tuning (writer), measures of texts (proof), what serves (nobody is promoted here).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from nightmarket import lake, ledger, llm, metrics, tracking, warehouse
from nightmarket.errors import ModelRefused, NightmarketError, ReplyInvalid
from nightmarket.ledger import Outcome
from nightmarket.llm import tuned
from nightmarket.products.product_copy import by_template
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.prompts import PROMPT_VERSION
from nightmarket.settings import Settings, get_settings
from nightmarket.training import candidates, comparison, finetune_writer, pairs, proof, stepping
from nightmarket.training.candidates import Candidate
from nightmarket.training.pairs import Pair

log = logging.getLogger(__name__)

NAME = "bake_off"
RECIPE = "bake-off-1"
SIZES = (16, 64, 256, 1024)
"""Pairs that candidates are tuned on; those of a smaller size are among those of a larger one."""
EPOCHS = 2
"""How often each pair is read, as long as a training's most steps allow it."""
LEAST_STEPS = 4
BITS_ON = 16
"""Held-out pairs whose bits a byte are measured."""


@dataclass(frozen=True)
class Point:
    """What a candidate is worth after so many pairs.

    Attributes:
        pairs: that it was tuned on; 0: as it came.
        told: of each held-out product the share of key facts that its own publishable sentences tell.
        averages: of the raw texts, as `proof.Proof` has them.
        bits: that a byte of held-out text costs; None: an endpoint does not say.
        parameters: numbers of the network; None: an endpoint does not say.
        tuning_s: seconds of tuning; 0 without.
        seconds, cost: of 1,000 texts; the cost by the prices of `writers.toml`, in `NIGHTMARKET_ENDPOINT_CURRENCY`.
        memory_mb: the most the process held until then.
    """

    candidate: str
    pairs: int
    told: tuple[float, ...]
    averages: dict[str, float]
    bits: float | None
    parameters: int | None
    tuning_s: float
    seconds: float
    cost: float
    memory_mb: float

    @property
    def mean(self) -> float:
        """The mean of `told`."""
        return float(np.mean(self.told)) if self.told else 0.0


def compare(day: date, run_id: str) -> Outcome:
    """Try every candidate on the day's frozen pairs and log the scorecard; the same inputs are compared once.

    A comparison that was killed goes on behind the last point that was whole; one in which a candidate could not be tried is
    logged, and tries all of them again when it is asked for again.

    Raises:
        CandidatesRefused: the shop's file cannot be used.
    """
    settings, listed = get_settings(), candidates.read()
    manifest, products = lake.require(pairs.NAME, day), lake.require("products", day)
    digest = _digest(listed, manifest.content_hash, settings)
    if found := tracking.recorded(NAME, digest):
        return Outcome(rows_in=manifest.rows, note=f"unchanged: {found['in_short']}")
    frozen = _descriptions(day)
    if lacks := finetune_writer.lacks(frozen):
        return Outcome(rows_in=manifest.rows, note=f"too little to compare on: {lacks}")
    with stepping.scratch(NAME, digest) as scratch:
        made: list[Point] = []
        failed: dict[str, str] = {}
        for candidate in listed:
            try:
                made += _tried(candidate, day, scratch)
            except BrokenProcessPool:
                failed[candidate.name] = "its process ended, most often for want of memory"
            except NightmarketError as error:
                failed[candidate.name] = str(error)
            if candidate.name in failed:
                log.warning("candidate %s could not be tried: %s", candidate.name, failed[candidate.name])
        sheets = _sheets(day, frozen, settings)
        shelf = _by_template(sheets)
        report = verdict(made, seed=settings.seed) | {"currency": settings.endpoint_currency}
        study = tracking.Study(
            day=day, run_id=run_id, dag_id=NAME,
            # An endpoint that was down today is no verdict about tomorrow: such a study is not found again.
            inputs_digest=warehouse.digest(digest, run_id) if failed else digest,
            params={
                "recipe": RECIPE, "seed": settings.seed, "candidates": ", ".join(c.name for c in listed),
                "products": len(sheets), "most_steps": settings.writer_steps, "prompt_version": PROMPT_VERSION,
            },
            metrics={name: value for point in made for name, value in _metrics(point)} | {"template.told": shelf},
            datasets=[
                tracking.DataSet("products", products.content_hash, "marts.products", day, products.rows, "evaluation"),
                tracking.DataSet(pairs.NAME, manifest.content_hash, f"lake.{pairs.NAME}", day, manifest.rows, "training"),
            ],
            documents={
                "scorecard.md": comparison.markdown(made, report, failed, shelf),
                "scorecard.html": comparison.page(made, report, failed, shelf, day=day),
                "points.json": json.dumps([asdict(point) for point in made], indent=1),
            },
            tags={"in_short": report["reason"], "recommended": report["recommended"] or ""},
            curves={
                f"{c.name}.told_after_pairs": [(p.pairs, p.mean) for p in made if p.candidate == c.name] for c in listed
            },
        )  # fmt: skip
        tracking.record(NAME, study)
    lost = f"; could not be tried: {', '.join(failed)}" if failed else ""
    return Outcome(rows_in=manifest.rows, rows_out=len(made), note=report["reason"] + lost)


def verdict(made: Sequence[Point], *, seed: int) -> dict[str, Any]:
    """Which candidate is recommended, after how many pairs, and why.

    Of all points, those are as good as the best of which the best does not certainly tell more (paired 95 % interval of key
    facts told). Of these the cheapest a text is recommended, then the fastest, then the one that needs fewest pairs.
    """
    if not made:
        return {
            "recommended": None,
            "pairs": 0,
            "as_good": [],
            "reason": "nothing is recommended: no candidate could be tried",
        }
    best = max(made, key=lambda p: (p.mean, -p.cost, -p.seconds, -p.pairs))
    as_good = []
    for point in made:
        interval = metrics.paired_interval(np.array(best.told), np.array(point.told), seed=seed)
        if point is best or not interval.low > 0:
            as_good.append(point)
    chosen = min(as_good, key=lambda p: (p.cost, p.seconds, p.pairs))
    after = f"after {chosen.pairs} pairs" if chosen.pairs else "as it came"
    reason = (
        f"{chosen.candidate} {after} is recommended: its own sentences tell {chosen.mean:.0%} of the key facts, "
        f"{chosen.seconds:,.0f} s and {chosen.cost:.2f} for 1,000 texts"
    )
    if chosen is not best:
        reason += (
            f"; the best, {best.candidate} with {best.pairs} pairs, tells {best.mean:.0%}, not certainly more"
        )
    return {
        "recommended": chosen.candidate, "pairs": chosen.pairs, "best": [best.candidate, best.pairs],
        "as_good": [[p.candidate, p.pairs] for p in as_good], "reason": reason,
    }  # fmt: skip


def trial(candidate: Candidate, day: date, scratch: Path) -> list[Point]:
    """Measure a candidate as it came and after each size of tuning; points that `scratch` holds are not made again.

    Raises:
        ModelRefused: it cannot be opened.
        ReplyInvalid: an endpoint answered nothing.
        SettingMissing: the address of an endpoint cannot be used.
    """
    settings = get_settings()
    frozen = _descriptions(day)
    sheets = _sheets(day, frozen, settings)
    made = []
    for size in (0, *sizes(candidate, frozen, settings)):
        kept = scratch / f"{candidate.name}-{size}.json"
        if kept.exists():
            told = json.loads(kept.read_text())
            made.append(Point(**told | {"told": tuple(told["told"])}))
            continue
        point = _endpoint(candidate, sheets) if candidate.kind == "endpoint" else _own(candidate, size, frozen, sheets, scratch)  # fmt: skip
        half = kept.with_suffix(".half")
        half.write_text(json.dumps(asdict(point)))
        half.replace(kept)
        made.append(point)
        log.info("%s after %d pairs tells %.0f %%", candidate.name, size, 100 * point.mean)
    return made


def sizes(candidate: Candidate, frozen: Sequence[Pair], settings: Settings) -> tuple[int, ...]:
    """The numbers of pairs that a candidate is tuned on: none for an endpoint, else those that the shop has pairs for."""
    most = min(len(pairs.on("train", frozen)), settings.bake_off_pairs)
    return () if candidate.kind == "endpoint" else tuple(size for size in SIZES if size <= most)


def _tried(candidate: Candidate, day: date, scratch: Path) -> list[Point]:
    """`trial`; of weights that are here in a process of its own: its memory is its own, and is given back."""
    if candidate.kind == "endpoint":
        return trial(candidate, day, scratch)
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(trial, candidate, day, scratch).result()


def _own(
    candidate: Candidate, size: int, frozen: Sequence[Pair], sheets: Sequence[Sheet], scratch: Path
) -> Point:
    """A candidate whose weights are here, after tuning on the first `size` pairs."""
    from nightmarket.llm import network
    from nightmarket.training import writer

    settings = get_settings()
    is_packaged = candidate.kind == "packaged"
    source = str(writer.materialised()) if is_packaged else candidate.source
    opened = network.opened(source, settings.threads)
    parameters = sum(p.numel() for p in opened[1].parameters())
    made = writer.adapted(*opened, settings.seed)
    learnt = pairs.on("train", frozen)[:size]
    steps = min(max(LEAST_STEPS, EPOCHS * size // writer.BATCH), settings.writer_steps) if size else 0
    began = time.perf_counter()
    if steps:
        writer.finetune(
            made, learnt, pairs.on("validation", frozen), steps=steps, parts=settings.writer_parts, seed=settings.seed,
            checkpoint=scratch / f"{candidate.name}-{size}.safetensors",
        )  # fmt: skip
    tuning = time.perf_counter() - began if steps else 0.0
    bits = float(made.bits_of(pairs.on("test", frozen)[:BITS_ON]).mean())
    if is_packaged:
        # As it would serve: through llama.cpp.
        folder = scratch / f"{candidate.name}-{size}"
        if size:
            made.save(folder)
        served = tuned.writer(folder, name=candidate.name) if size else None
        with llm.LocalGenerator(tuned=served, threads=settings.threads) as generator:
            shown = proof.prove(sheets, generator)
        if size:
            tuned.forget(folder)
    else:
        with llm.NetworkGenerator((made.tokenizer, made.network), name=candidate.name) as generator:
            shown = proof.prove(sheets, generator)
    seconds = shown.averages["seconds"] / max(len(sheets), 1)
    return Point(
        candidate.name, size, tuple(map(float, shown.told)), dict(shown.averages), bits, parameters, tuning,
        1000 * seconds, 1000 * seconds / 3600 * candidate.price_per_hour, ledger.peak_rss_mb(),
    )  # fmt: skip


def _endpoint(candidate: Candidate, sheets: Sequence[Sheet]) -> Point:
    settings = get_settings()
    # A key is for the endpoint it was given for, and shown to no other.
    key = settings.endpoint_key if candidate.url == settings.endpoint_url else None
    with llm.EndpointGenerator(
        url=candidate.url or "", model=candidate.model or "", key=key, concurrency=settings.endpoint_concurrency,
        timeout_s=settings.endpoint_timeout_s, stall_s=settings.endpoint_stall_s, tries=settings.endpoint_tries,
        deadline_s=settings.endpoint_deadline_s, tokens_per_run=settings.endpoint_tokens_per_run,
        prices=llm.Prices(candidate.price_in, candidate.price_out, settings.endpoint_currency), insecure=settings.endpoint_insecure,
    ) as generator:  # fmt: skip
        shown = proof.prove(sheets, generator)
        spent = generator.spent
    if sheets and spent.failures == len(sheets):
        raise ReplyInvalid(
            f"{candidate.model} at {candidate.url} answered none of {len(sheets)} requests. See that it runs and takes the key."
        )
    texts = max(len(sheets), 1)
    return Point(
        candidate.name, 0, tuple(map(float, shown.told)), dict(shown.averages), None, None, 0.0,
        1000 * shown.averages["seconds"] / texts, 1000 * float(spent.cost) / texts, ledger.peak_rss_mb(),
    )  # fmt: skip


def _descriptions(day: date) -> list[Pair]:
    """The pairs that candidates are compared by: the text that the writer's gate judges."""
    return pairs.of("description", pairs.load(day))


def _sheets(day: date, frozen: Sequence[Pair], settings: Settings) -> tuple[Sheet, ...]:
    wanted = {pair.product_id for pair in pairs.on("test", frozen)}
    return finetune_writer.held_out(lake.read("products", day), wanted, settings.writer_trial_products)


def _by_template(sheets: Sequence[Sheet]) -> float:
    """What the template tells of the key facts: all that anything could, in words that nobody wrote for the product."""
    shares = [
        proof.share(proof.key_facts(sheet), frozenset().union(*(s.told for s in by_template(sheet).body)))
        for sheet in sheets
    ]
    return float(np.mean(shares)) if shares else 0.0


def _metrics(point: Point) -> Iterator[tuple[str, float]]:
    at = f"{point.candidate}.{point.pairs}"
    yield f"{at}.told", point.mean
    for name, value in point.averages.items():
        yield f"{at}.{name}", value
    for name in ("bits", "parameters", "tuning_s", "cost", "memory_mb"):
        if (value := getattr(point, name)) is not None:
            yield f"{at}.{name}", float(value)
    yield f"{at}.seconds_per_1000", point.seconds


def _digest(listed: Sequence[Candidate], content_hash: str, settings: Settings) -> str:
    """Of everything that decides the points; prices change the recommendation, and so they are among it."""
    told = [c.model_dump_json() for c in listed]
    return warehouse.digest(
        RECIPE, told, [_weights(c) for c in listed], content_hash, PROMPT_VERSION, settings.writer_steps, settings.writer_parts, settings.seed,
        settings.writer_trial_products, settings.bake_off_pairs,
    )  # fmt: skip


def _weights(candidate: Candidate) -> str:
    """A digest of what a file does not say of a candidate: the weights in a folder, and the packaged ones."""
    if candidate.kind == "packaged":
        return llm.SMOLLM2.digest
    if candidate.kind != "folder":
        return ""
    try:
        return llm.version_of(candidate.source)
    except ModelRefused as error:
        return str(error)  # its trial says so too, in a line of its own
