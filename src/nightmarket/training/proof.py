"""How well a writer writes about products by itself: its own sentences held against the facts, before anything is repaired.

Not here: the loss on held-out texts (writer), and what the night publishes (products.product_copy).
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket import guard, llm, metrics
from nightmarket.products import summaries
from nightmarket.products.product_copy import fields, freely, policies, writing
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.training import pairs
from nightmarket.training.pairs import Pair

BASE = "the packaged writer"
MEASURE = "told"
LEAST_PRODUCTS = 20
MOST_TOKENS = 120
"""Tokens of a raw text: a description has some 60, and the packaged writer would go on for 400."""


@dataclass(frozen=True)
class Proof:
    """What a writer's raw texts are worth.

    Attributes:
        told: of each product the share of its key facts that a sentence tells which may go out.
        averages: `told`; `passed` (share of sentences that may go out); `unsupported` and `misbound` (claims a sentence);
            `repeated` (share of sentences that say nothing new); `distinct_2` (different pairs of words among all);
            `seconds` and `tokens_per_second`.
        texts: what it said, in the order of the products.
    """

    told: NDArray[np.float64]
    averages: Mapping[str, float]
    texts: tuple[str, ...]


def prove(sheets: Sequence[Sheet], writer: llm.Generator) -> Proof:
    """Let a writer write about each sheet without a grammar, and judge every sentence as a night does."""
    packs = guard.shop_packs()
    chosen = [policies.pack_of(sheet, packs) for sheet in sheets]
    began = time.perf_counter()
    asked = [freely.request(s, pack) for s, pack in zip(sheets, chosen, strict=True)]
    replies = writer.attempt([replace(r, max_tokens=min(r.max_tokens, MOST_TOKENS)) for r in asked])
    seconds = time.perf_counter() - began
    told, said, passed, tokens = [], 0, 0, 0
    wrong = {"unsupported": 0, "misbound": 0, "repeated": 0}
    texts: list[str] = []
    for sheet, pack, reply in zip(sheets, chosen, replies, strict=True):
        if isinstance(reply, llm.Failure):
            told.append(0.0)
            texts.append("")
            continue
        removed: list[Removed] = []
        kept = freely.read(reply, sheet, pack, removed)
        told.append(share(key_facts(sheet), frozenset().union(*(s.told for s in kept))))
        said += len(guard.sentences(reply.text))
        passed += len(kept)
        tokens += reply.size
        for gone in removed:
            kind = "repeated" if gone.value == "says nothing new" else gone.verdict
            wrong[kind] = wrong.get(kind, 0) + 1
        texts.append(reply.text)
    a_sentence = {name: wrong[name] / max(said, 1) for name in ("unsupported", "misbound", "repeated")}
    averages = {
        "told": float(np.mean(told)) if told else 0.0, "passed": passed / max(said, 1), **a_sentence,
        "distinct_2": distinct(texts), "seconds": seconds, "tokens_per_second": tokens / max(seconds, 1e-9),
    }  # fmt: skip
    return Proof(np.array(told, np.float64), averages, tuple(texts))


def share_that_stands(some: Sequence[Pair], products: pa.Table, writer: llm.Generator) -> float:
    """Of texts other than descriptions, all of one kind, the share that a writer asked for them writes so that a night would
    publish them; some lines of a list are enough."""
    field, packs = some[0].field, guard.shop_packs()
    if field == summaries.SUMMARY:
        facts = [summaries.facts_in(pair.messages[-1][1]) for pair in some]
        return float(np.mean([s.by is not None for s in summaries.write([(f, "") for f in facts], writer)]))
    sheets = {sheet.product_id: sheet for _, sheet in pairs.sheets(products, writer.languages)}
    asked = [
        (sheet, policies.pack_of(sheet, packs)) for pair in some if (sheet := sheets.get(pair.product_id))
    ]
    requests = [(sheet, pack, r) for sheet, pack in asked if (r := fields.request(field, sheet, pack))]
    replies = writer.attempt([request for _, _, request in requests])
    stands = [
        isinstance(reply, llm.Reply) and bool(fields.read(field, reply, sheet, pack, []))
        for (sheet, pack, _), reply in zip(requests, replies, strict=True)
    ]
    return float(np.mean(stands)) if stands else 0.0


def key_facts(sheet: Sheet) -> frozenset[str]:
    """What a text about a product should tell: the attributes worth telling, and its name (which often holds the brand)."""
    return frozenset({fact.attribute for fact in writing.worth_telling(sheet.facts)} | {"name"})


def distinct(texts: Sequence[str]) -> float:
    """Different pairs of neighbouring words among all pairs (Li et al. 2016, distinct-2); 0 without any."""
    pairs: list[tuple[str, str]] = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        pairs += itertools.pairwise(words)
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def report(
    proofs: Mapping[str, Proof], losses: Mapping[str, NDArray[np.float64]], *, champion: str | None, seed: int
) -> dict[str, Any]:
    """The gate's verdict on the writer `tuned`, with everything it rests on, as plain values.

    `promote` is true when on at least `LEAST_PRODUCTS` products that nobody learnt from its own sentences tell certainly
    more key facts (paired 95 % interval above 0) than those of the packaged writer, and of the champion where there is one;
    when a smaller share of what it says is unsupported; and when held-out texts surprise it less.

    Args:
        proofs, losses: by writer: `base`, `tuned`, and `champion` where there is one; on the same products and pairs.
    """
    ours = proofs["tuned"]
    names = {"base": BASE, "champion": f"version {champion}"}
    against: list[dict[str, Any]] = []
    for name, theirs in proofs.items():
        if name != "tuned":
            interval = metrics.paired_interval(ours.told, theirs.told, seed=seed)
            against.append(
                {
                    "against": names[name], "ours": ours.averages["told"], "theirs": theirs.averages["told"],
                    "mean": interval.mean, "low": interval.low, "high": interval.high, "products": interval.n,
                }
            )  # fmt: skip
    fall = 1 - float(losses["tuned"].mean()) / float(losses["base"].mean())
    reasons = []
    if len(ours.told) < LEAST_PRODUCTS:
        reasons.append(f"only {len(ours.told)} held-out products, {LEAST_PRODUCTS} are needed")
    if not np.isfinite(fall):
        reasons.append("its loss is no number")
    elif fall <= 0:
        reasons.append(f"held-out texts surprise it more than {BASE} ({-fall:+.1%})")
    reasons += [
        f"its own sentences do not certainly tell more than those of {c['against']} "
        f"({c['mean']:+.3f}, 95 % from {c['low']:+.3f} to {c['high']:+.3f})"
        for c in against
        if not c["low"] > 0
    ]
    wrong = {name: p.averages["unsupported"] + p.averages["misbound"] for name, p in proofs.items()}
    if wrong["tuned"] > wrong["base"]:
        reasons.append(
            f"it says more that is unsupported ({wrong['tuned']:.2f} a sentence, {BASE} {wrong['base']:.2f})"
        )
    won = "tells more than " + ", ".join(f"{c['against']} ({c['mean']:+.3f})" for c in against)
    return {
        "measure": MEASURE, "products": len(ours.told), "promote": not reasons, "champion": champion,
        "reason": "; ".join(reasons) if reasons else f"{won}; held-out loss {-fall:+.1%}",
        "comparisons": against, "loss_fall": fall,
        "losses": {name: float(values.mean()) for name, values in losses.items()},
        "writers": {name: {k: round(v, 6) for k, v in p.averages.items()} for name, p in proofs.items()},
    }  # fmt: skip


def share(wanted: frozenset[str], told: frozenset[str]) -> float:
    """The share of wanted facts that are told; a title tells the name."""
    named = told | ({"name"} if "title" in told else set())
    return len(wanted & named) / len(wanted)
