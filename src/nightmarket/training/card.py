"""The model card of a ranker: what it is, what it learnt from, how it was measured, where it fails. Text, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from nightmarket.lake import Manifest
from nightmarket.training.examples import Examples

_MEASURES = (
    "ndcg_10",
    "recall_10",
    "ndcg_10_unmasked",
    "coverage_20",
    "novelty_20",
    "ece_20",
    "ms_per_customer",
)


def text(
    day: date, manifest: Manifest, frozen: Examples, params: Mapping[str, Any], report: Mapping[str, Any]
) -> str:
    """The card of a version as Markdown, from its parameters and gate report."""
    rows = [("this model", report["candidate"]), *report["shelf"].items()]
    names = [name for name in _MEASURES if name in report["candidate"]]
    return f"""# Ranker `nightmarket.ranking`, day {day}

Ranks products for a customer by what the customer bought. {_made_of(params["ranker"])}

## Data

{manifest.rows} purchases of {frozen.customers} customers before {
        day
    }, from `marts.purchases` (no bots, nobody who refused training or
profiling), and a catalogue of {
        len(frozen.catalogue)
    } products, those on sale that nobody bought included. Content hash of the frozen
examples: `{manifest.content_hash}`. Texts of {
        params["texts_waiting"]
    } products wait for another night's budget.

## How it was measured

On {
        report["examples"]
    } customers: of each one's last order that brought a new product, one such product was held out (seed
{
        params["seed"]
    }) and everything from that order on was kept from training. All products are ranked, those bought before are
left out (but in `ndcg_10_unmasked`), empty places hold popular products. Half-lives, l2, weights and shares were chosen on
the order before that one; the held-out purchases were asked once.

**The model in this version is fitted on all purchases, the held-out ones included**, after the recipe was measured.

{_table(["", *names], [[name, *(_number(values.get(n)) for n in names)] for name, values in rows])}

NDCG@10, paired over customers:

{_comparisons(report["comparisons"])}

{_in_time(report.get("in_time"))}
## Slices

Against {
        report["slices"][0]["against"] if report["slices"] else "nothing"
    }; a slice refuses when its whole interval lies below its limit.

{
        _table(
            ["slice", "customers", "this model", "reference", "difference"],
            [
                [s["slice"], str(s["examples"]), _number(s["ours"]), _number(s["theirs"]), _number(s["mean"])]
                for s in report["slices"]
            ],
        )
    }

## Reasons

Taking out the products named as causes costs a listed product more of its score than taking out as many others of the same
history in {report["faithfulness"]["share"]:.1%} of {report["faithfulness"]["lists"]} lists (mean losses
{report["faithfulness"]["drop_named"]:.1%} and {report["faithfulness"]["drop_random"]:.1%}).

Gate: {"promote" if report["promote"] else "refuse"}: {report["reason"]}.

## Limits

A product that nobody bought is known by its text alone; without a text it has no score. Customers without purchases get
popular products. It says what is bought together and next, not what a recommendation would change.

## Files

`ranker/` and `popularity/`, `gate_report.json`, and `item_to_item/` where the gate refused; safetensors and JSON. Load with
`nightmarket.ranking.load(folder / "ranker")`, or as an MLflow pyfunc where the package `nightmarket` is installed.
"""


def _made_of(ranker: Mapping[str, Any]) -> str:
    blend = ranker.get("blend", ranker)
    linear = (
        f"EASE (closed form, l2 {blend['ease']['l2']:g}, history halved every {blend['ease']['half_life']:g} orders, at most "
        f"{blend['ease']['max_items']} products) plus {blend['weight']:g} times item-to-item follow-ups (halved every "
        f"{blend['item_to_item']['half_life']:g} orders); products that hardly anybody bought borrow from those like them"
    )
    if "sequential" not in ranker:
        return f"{linear}."
    network = ranker["sequential"]
    return (
        f"A mixture: {ranker['share']:.0%} of a causal transformer over the latest {network['length']} products "
        f"({network['layers']} layer, {network['dimensions']} dimensions, {network['epochs']} epochs, full softmax, product "
        f"vectors that begin from texts), the rest of a linear blend. {linear}."
    )


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"- against {c['against']}: {_number(c['mean'])}, 95 % interval {_number(c['low'])} to {_number(c['high'])}"
        for c in comparisons
    )


def _in_time(timed: Mapping[str, Any] | None) -> str:
    if timed is None:
        return "The split by time over the whole shop was not asked (too many purchases, or too few after the cut).\n"
    return (
        f"On the split by time (nothing of the last tenth of purchases learnt by anybody, {timed['examples']} customers; the few\n"
        "hyper-parameters were chosen on validation purchases, some of which lie after the cut):\n\n"
        f"{_comparisons(timed['comparisons'])}\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
