"""What would change if a challenger served: its lists beside those of the model that serves, before anybody sees them.

Here: both models' lists for the same customers, how far they differ, and a page about it. The lists are for the lake
(name `NAME`); report and page name products and count customers, and never name a customer: they may go to MLflow. Not
here: whether the challenger may serve (scorecard), and writing anything (finetune).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket import metrics
from nightmarket.ranking import Catalogue, Histories, Popularity, Ranker
from nightmarket.training import pages
from nightmarket.training.slices import Masks, meaning

NAME = "shadow_recommendations"
KEY = ("customer_id", "rank")
SCHEMA = pa.schema([
    ("customer_id", pa.string()), ("rank", pa.int64()), ("product_id", pa.string()), ("score", pa.float64()),
    ("is_filled", pa.bool_()), ("champion_rank", pa.int64()),
])  # fmt: skip
MOVERS = 15
"""Products named on each side: those that gain and those that lose most exposure."""
LEAST = 10
"""A slice of fewer customers is not reported: what few customers get says who they are."""
_AT_ONCE = 20_000  # customers compared at once: 20 x 20 matches each are 8 MB
_LENGTHS = ((0, 0, "no purchases"), (1, 1, "1 product"), (2, 4, "2 to 4 products"), (5, 19, "5 to 19 products"),
            (20, None, "20 products or more"))  # fmt: skip


def shadow(
    challenger: Ranker,
    champion: Ranker | None,
    popularity: Popularity,
    histories: Histories,
    k: int,
    *,
    champion_popularity: Popularity | None = None,
    allowed_ids: Sequence[str] | pa.Array | pa.ChunkedArray | None = None,
    slices: Masks | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """The challenger's lists, a row a place, and a report of how they differ from the champion's.

    `histories` are coded with the challenger's catalogue; for the champion they are coded again, without the products
    it does not know. Both leave out what was bought and fill empty places with popular products, as a night does.

    Args:
        champion: what serves now: the champion, or the shelf's model where there is none. None: nothing is compared.
        popularity: fills the challenger's lists, and the champion's too unless `champion_popularity` is given.
        allowed_ids: only these products are listed; by default all.
        slices: more groups of these customers to look at, beside those by length of history.

    Raises:
        ModelRefused: histories or popularity were coded with another catalogue.
    """
    names = challenger.catalogue.product_ids
    ours, scores, filled = _lists(challenger, popularity, histories, k, allowed_ids)
    if champion is None:
        theirs, shared = None, Catalogue(names)
    else:
        told = _recoded(histories, challenger.catalogue, champion.catalogue)
        found, _, _ = _lists(champion, champion_popularity or popularity, told, k, allowed_ids)
        shared = Catalogue.of([*names, *champion.catalogue.product_ids])
        theirs = _translated(found, champion.catalogue, shared)
    mine = _translated(ours, challenger.catalogue, shared)
    row, place = np.nonzero(mine >= 0)
    before = _places(mine, theirs)[row, place] if theirs is not None else np.zeros(len(row), np.int64)
    table = pa.table(
        [
            pa.array(histories.customer_ids, pa.string()).take(pa.array(row)),
            pa.array(place + 1, pa.int64()),
            pa.array(shared.product_ids, pa.string()).take(pa.array(mine[row, place].astype(np.int64))),
            pa.array(scores[row, place].astype(np.float64)),
            pa.array(filled[row, place]),
            pa.array(before, pa.int64(), mask=before == 0),
        ],
        schema=SCHEMA,
    )
    return table, _report(mine, theirs, histories, shared, k, slices or {})


def page(
    report: Mapping[str, Any], titles: Mapping[str, str], *, challenger: str = "challenger", champion: str = "champion"
) -> str:  # fmt: skip
    """The report as one HTML file. Titles are quoted as they are; a product without one is shown by its id."""
    body = [
        f'<p class="quiet">{pages.text(report["customers"])} customers, {pages.text(report["k"])} places each. '
        f"Before: {pages.text(champion)}. After: {pages.text(challenger)}. Nobody was shown these lists.</p>"
    ]
    if report["diff"] is None:
        body.append(pages.cards([(f"{report['coverage_after']:.1%}", "of products listed")]))
        body.append("<p>Nothing serves yet that the lists could be compared with.</p>")
        return pages.document(f"Shadow lists of {challenger}", body)
    diff = report["diff"]
    body.append(pages.cards([
        (f"{diff['overlap']:.0%}", f"of places hold the same products (overlap@{report['k']})"),
        (f"{diff['rank_biased_overlap']:.2f}", "rank-biased overlap, 1: the same lists"),
        (f"{diff['first_changed']:.0%}", "of customers see another first product"),
        (f"{diff['unchanged']:.0%}", "of customers see no change at all"),
        (f"{report['coverage_before']:.1%} → {report['coverage_after']:.1%}", "of products listed"),
    ]))  # fmt: skip
    body.append(pages.heading("Whose lists change", "Groups of customers, those that change most first."))
    body.append(pages.table(
        ["group", "customers", "overlap", "rank-biased", "another first product", ""],
        [
            [s["meaning"], s["customers"], f"{s['overlap']:.0%}", f"{s['rank_biased_overlap']:.2f}",
             f"{s['first_changed']:.0%}", pages.bar(1 - s["rank_biased_overlap"])]
            for s in diff["slices"]
        ],
    ))  # fmt: skip
    for key, heading in (
        ("gain", "Products that gain most exposure"),
        ("lose", "Products that lose most exposure"),
    ):
        moved = diff[key]
        most = max((abs(m["change"]) for m in moved), default=1)
        body.append(pages.heading(heading, "In how many customers' lists a product stands."))
        body.append(pages.table(
            ["product", "before", "after", "change", ""],
            [
                [titles.get(m["product_id"]) or m["product_id"], m["before"], m["after"], f"{m['change']:+,}",
                 pages.bar(m["change"] / most)]
                for m in moved
            ],
        ))  # fmt: skip
    return pages.document(f"Shadow lists of {challenger} against {champion}", body)


def _lists(
    ranker: Ranker, popularity: Popularity, histories: Histories, k: int, allowed_ids: Any
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
    """What a night would list: products as the ranker's codes, scores, and which places popularity filled."""
    allowed = ranker.catalogue.mask(allowed_ids) if allowed_ids is not None else None
    best = ranker.recommend(histories, k, allowed=allowed)
    if popularity.catalogue.digest != ranker.catalogue.digest:
        popularity = _popularity_for(popularity, ranker.catalogue)
    lists, filled = popularity.fill(best, histories, allowed=allowed)
    return lists.products, lists.scores, filled


def _popularity_for(popularity: Popularity, catalogue: Catalogue) -> Popularity:
    """The same popularity, coded with another catalogue: products it does not know are bought by nobody."""
    codes = popularity.catalogue.codes(list(catalogue.product_ids))
    counts = np.zeros(len(catalogue), np.float32)
    counts[codes >= 0] = popularity.counts[codes[codes >= 0]]
    return Popularity.restore(catalogue, popularity.params(), {"counts": counts})


def _recoded(histories: Histories, source: Catalogue, target: Catalogue) -> Histories:
    """Histories in the codes of another catalogue; what that one does not know is left out."""
    source.require(histories.digest, "A history")
    if source.digest == target.digest:
        return histories
    codes = target.codes(list(source.product_ids))[histories.items]
    kept = codes >= 0
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)[histories.offsets]
    return Histories(histories.customer_ids, offsets, codes[kept], histories.ages[kept], target.digest)


def _translated(lists: NDArray[np.int32], source: Catalogue, target: Catalogue) -> NDArray[np.int32]:
    codes = target.codes(list(source.product_ids))
    return np.where(lists >= 0, codes[np.maximum(lists, 0)], -1).astype(np.int32) if len(codes) else lists


def _places(ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each place of ours, where theirs has the same product: 1 the first, 0 nowhere."""
    found = np.zeros(ours.shape, np.int64)
    for begin in range(0, len(ours), _AT_ONCE):
        span = slice(begin, begin + _AT_ONCE)
        same = (ours[span, :, None] == theirs[span, None, :]) & (ours[span, :, None] >= 0)
        found[span] = np.where(same.any(axis=2), same.argmax(axis=2) + 1, 0)
    return found


def _report(
    ours: NDArray[np.int32], theirs: NDArray[np.int32] | None, histories: Histories, names: Catalogue, k: int, slices: Masks
) -> dict[str, Any]:  # fmt: skip
    found: dict[str, Any] = {
        "customers": len(ours), "k": k, "coverage_after": metrics.coverage(ours, len(names)),
        "coverage_before": metrics.coverage(theirs, len(names)) if theirs is not None else None, "diff": None,
    }  # fmt: skip
    if theirs is None:
        return found
    same, ranked = np.ones(len(ours)), np.ones(len(ours))
    for begin in range(0, len(ours), _AT_ONCE):
        span = slice(begin, begin + _AT_ONCE)
        same[span] = metrics.overlap(ours[span], theirs[span])
        ranked[span] = metrics.rank_biased_overlap(ours[span], theirs[span])
    first = (ours[:, :1] != theirs[:, :1]).any(axis=1)
    lengths = np.diff(histories.offsets)
    groups = {
        name: (lengths >= low) & (lengths <= (high if high is not None else np.inf)) for low, high, name in _LENGTHS
    }  # fmt: skip
    groups |= slices
    rows = [
        {
            "slice": name, "meaning": meaning(name), "customers": int(mask.sum()), "overlap": _mean(same[mask]),
            "rank_biased_overlap": _mean(ranked[mask]), "first_changed": _mean(first[mask]),
        }
        for name, mask in groups.items()
        if int(mask.sum()) >= LEAST
    ]  # fmt: skip
    before, after = (np.bincount(each[each >= 0], minlength=len(names)) for each in (theirs, ours))
    change = after - before
    found["diff"] = {
        "overlap": _mean(same), "rank_biased_overlap": _mean(ranked), "first_changed": _mean(first),
        "unchanged": _mean((ours == theirs).all(axis=1)),
        "slices": sorted(rows, key=lambda r: (r["rank_biased_overlap"], r["slice"])),
        "gain": _movers(-change, before, after, names), "lose": _movers(change, before, after, names),
    }  # fmt: skip
    return found


def _movers(
    order_by: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64], names: Catalogue
) -> list[dict[str, Any]]:
    """The products with the lowest, negative `order_by`."""
    order = np.lexsort((np.arange(len(order_by)), order_by))[:MOVERS]
    return [
        {"product_id": names.product_ids[p], "before": int(before[p]), "after": int(after[p]), "change": int(after[p] - before[p])}
        for p in order.tolist()
        if order_by[p] < 0
    ]  # fmt: skip


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0
