"""What rules would change before they go live: who gains and who loses exposure, and which rules never fire.

Here: reading a file of rules, applying it to lists, and counting slots before and after. Not here: publishing anything; this
only reads. Counted are slots, and slots weighed by how much a place is looked at: 1 / log2(place + 1).

Published lists are only as long as what was shown, so applied to them a rule that takes a product out leaves a place empty
which the night fills from further down: losses are right, gains come out too small. Whoever makes the candidates anew can
hand them to `compare` and gets both right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import warehouse
from nightmarket.contracts import LANDING, PLACEMENTS
from nightmarket.errors import NightmarketError, QueryFailed, RuleRefused
from nightmarket.merchandising.book import RuleBook
from nightmarket.merchandising.slots import Candidates, Slots

APPROXIMATE = (
    "Published lists are applied to, which are no longer than what was shown: what a rule takes out leaves a place empty "
    "here, where the night fills it from further down. Losses are right, gains are too small."
)
KINDS = ("product", "brand", "category")


@dataclass(frozen=True)
class Effects:
    """What a book does to the lists of one placement.

    Attributes:
        rows: a row for each product, brand and category whose slots change: kind, name, slots and exposure before and
            after, and how many lists it changes in; the greatest change of exposure of a kind first.
        fired: how many slots each rule of the placement touches; 0: it never fires.
        lists: how many lists there are, and `changed` how many of them are not as before.
    """

    placement: str
    rows: pa.Table
    fired: Mapping[str, int]
    lists: int
    changed: int

    @property
    def silent(self) -> tuple[str, ...]:
        """Rules that touch no slot."""
        return tuple(rule_id for rule_id, slots in self.fired.items() if not slots)

    def told(self, top: int) -> pa.Table:
        """The rows that change most, so many of each kind."""
        return pa.concat_tables(
            [self.rows.filter(pc.equal(self.rows["kind"], kind)).slice(0, top) for kind in KINDS]
        )


def read_file(path: Path) -> pa.Table:
    """The rows of a file of rules (CSV, JSON Lines or Parquet), as the landing folder would hold it.

    Raises:
        RuleRefused: it is not there, or cannot be read as what its name says.
    """
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    names = [column.name for column in LANDING["recommendation_rules"].columns]
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path, partitioning=None)
        if path.suffix in (".jsonl", ".ndjson"):
            return pyarrow.json.read_json(path)
        texts = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        return pyarrow.csv.read_csv(path, convert_options=texts)
    except (OSError, pa.ArrowInvalid) as error:
        raise RuleRefused([f"{path} cannot be read: {error}. Give a .csv, .jsonl or .parquet file."]) from error  # fmt: skip


def check_file(path: Path, day: date | None) -> tuple[RuleBook, list[str]]:
    """The book that a file would be on a day, and warnings; against the catalogue of the shop's last build.

    Raises:
        RuleRefused: with every problem of the file.
        WarehouseMissing: the shop has no catalogue yet.
    """
    day = day or night()
    products = warehouse.read("select * from marts.products order by product_id")
    table = read_file(path)
    ids = products["product_id"].to_pylist()
    book = RuleBook.of(table, products, ids, day)
    return book, [*book.warnings, *_left_behind(table, day)]


def night() -> date:
    """The day of the shop's last load."""
    found = warehouse.read("select day from raw.night").to_pylist()
    if not found:
        raise NightmarketError("The shop was never loaded, so the day is not known. Give one: --day 2026-11-22.")  # fmt: skip
    return found[0]["day"]  # type: ignore[no-any-return]


def published(book: RuleBook, day: date) -> list[Effects]:
    """What a book would do to the lists that are published now, by placement, without exploring."""
    exposures = _rows("select * from marts.exposures")
    found = []
    for placement in PLACEMENTS:
        rows = _rows(
            "select customer_id, product_id, rank, score, rank_before_rules from outputs.recommendations_current "
            "where placement = ? order by customer_id, rank",
            [placement],
        )
        if rows is None or not rows.num_rows:
            continue
        customers, before, proposed = _lists(rows, book)
        k = before.shape[1]
        after = book.apply(
            proposed, placement, k, customer_ids=customers, exposures=exposures, exploration=0.0, seed=0, day=day,
        )  # fmt: skip
        found.append(compare(before, after, book, placement))
    return found


def compare(before: NDArray[np.int32], after: Slots, book: RuleBook, placement: str) -> Effects:
    """Slots and exposure of the same lists before (rows x k, codes) and after a book was applied."""
    catalogue = book.catalogue
    tables = []
    for kind in KINDS:
        if kind == "product":
            groups, names = np.arange(len(book.product_ids)), np.array(book.product_ids, object)
        elif catalogue is None:
            continue
        else:
            names, groups = np.unique(catalogue.names(kind).astype(str), return_inverse=True)
        tables.append(_changes(kind, names, groups.astype(np.int64), before, after.products))
    fired = {
        rule.rule_id: int(np.count_nonzero(after.rules >> np.int64(i) & 1))
        for i, rule in enumerate(book.rules) if placement in rule.placements
    }  # fmt: skip
    moved = int((_padded(before, after.products) != _padded(after.products, before)).any(axis=1).sum())
    return Effects(placement, pa.concat_tables(tables), fired, len(after), moved)


def silence(effects: Sequence[Effects]) -> list[str]:
    """A sentence for each rule that touches no slot anywhere."""
    slots: dict[str, int] = {}
    for one in effects:
        for rule_id, count in one.fired.items():
            slots[rule_id] = slots.get(rule_id, 0) + count
    return [f"Rule `{rule_id}` touches no slot." for rule_id, count in slots.items() if not count]


def report(effects: Sequence[Effects], to: Path | None) -> Sequence[Effects]:
    """Write all rows of all placements to a CSV file, if one is named; hands the effects on.

    Raises:
        NightmarketError: nothing is published yet, so there is nothing to apply rules to, or the name is no .csv.
    """
    if not effects:
        raise NightmarketError("No recommendations are published yet: run a night first, then simulate rules on its lists.")  # fmt: skip
    if to is not None:
        if to.suffix != ".csv":
            raise NightmarketError(f"--to {to}: name a file that ends in .csv.")
        import pyarrow.csv

        to.parent.mkdir(parents=True, exist_ok=True)
        parts = [e.rows.add_column(0, "placement", pa.array([e.placement] * e.rows.num_rows, pa.string())) for e in effects]  # fmt: skip
        pyarrow.csv.write_csv(pa.concat_tables(parts), to)
    return effects


def _changes(
    kind: str, names: NDArray[Any], groups: NDArray[np.int64], before: NDArray[np.int32], after: NDArray[np.int32]
) -> pa.Table:  # fmt: skip
    size = len(names)
    slots, exposure, sums = [], [], []
    for products in (before, after):
        row, place = np.nonzero(products >= 0)
        group = groups[products[row, place]]
        weight = 1 / np.log2(place + 2)
        slots.append(np.bincount(group, minlength=size))
        exposure.append(np.bincount(group, weights=weight, minlength=size))
        sums.append((row * size + group, weight))
    # A group changes in a list where its exposure there does.
    pairs, back = np.unique(np.concatenate([sums[0][0], sums[1][0]]), return_inverse=True)
    gain = np.bincount(back, weights=np.concatenate([-sums[0][1], sums[1][1]]), minlength=len(pairs))
    lists = np.bincount(pairs[np.abs(gain) > 1e-9] % size, minlength=size) if size else np.zeros(0, int)
    kept = np.flatnonzero(lists)
    kept = kept[np.lexsort((kept, -np.abs(exposure[1] - exposure[0])[kept]))]
    return pa.table({
        "kind": pa.array([kind] * len(kept), pa.string()), "name": pa.array(names[kept].tolist(), pa.string()),
        "slots_before": pa.array(slots[0][kept], pa.int64()), "slots_after": pa.array(slots[1][kept], pa.int64()),
        "exposure_before": pa.array(exposure[0][kept], pa.float64()),
        "exposure_after": pa.array(exposure[1][kept], pa.float64()), "lists": pa.array(lists[kept], pa.int64()),
    })  # fmt: skip


def _lists(rows: pa.Table, book: RuleBook) -> tuple[list[str], NDArray[np.int32], Candidates]:
    """Customers, their published lists, and the candidates these were made from, as far as they are known."""
    coded = rows["customer_id"].combine_chunks().dictionary_encode()
    customers, row = coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)
    codes = pc.index_in(rows["product_id"], value_set=pa.array(book.product_ids, pa.string()))
    product = pc.fill_null(codes, -1).to_numpy().astype(np.int32)
    rank = rows["rank"].to_numpy().astype(np.int64)
    before = np.full((len(customers), int(rank.max())), -1, np.int32)
    before[row, rank - 1] = product
    # In the model's order; what a rule put in was no candidate.
    place = pc.fill_null(rows["rank_before_rules"], 0).to_numpy().astype(np.int64)
    kept = np.flatnonzero((place > 0) & (product >= 0))
    kept = kept[np.lexsort((place[kept], row[kept]))]
    nth = np.arange(len(kept)) - np.searchsorted(row[kept], row[kept], side="left")
    products = np.full(before.shape, -1, np.int32)
    scores = np.zeros(before.shape, np.float32)
    products[row[kept], nth] = product[kept]
    scores[row[kept], nth] = pc.fill_null(rows["score"], 0.0).to_numpy()[kept]
    return customers, before, Candidates(products, scores, np.zeros(before.shape, np.int8))


def _padded(products: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    width = max(products.shape[1], other.shape[1])
    return np.pad(products, ((0, 0), (0, width - products.shape[1])), constant_values=-1)


def _left_behind(table: pa.Table, day: date) -> list[str]:
    """Rules of the warehouse that the file no longer has: leaving a line out of a file does not end its rule."""
    held = _rows("select rule_id from marts.recommendation_rules where ends_on is null or ends_on >= ? order by 1", [day])  # fmt: skip
    in_file = set(table["rule_id"].cast(pa.string()).to_pylist())
    return [
        f"Rule `{rule_id}` is in the warehouse and not in the file: it goes on. To end it, deliver it with an ends_on."
        for rule_id in (held["rule_id"].to_pylist() if held is not None else [])
        if rule_id not in in_file
    ]


def _rows(sql: str, parameters: Sequence[Any] = ()) -> pa.Table | None:
    """Rows of a table that may not be there yet."""
    try:
        return warehouse.read(sql, list(parameters))
    except QueryFailed:
        return None
