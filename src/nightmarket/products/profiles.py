"""Customer profiles and interests: who buys how often, how much and what, with the evidence, in columns and a sentence.

Here: recency, frequency and value against frozen thresholds, a customer's own cadence, what the customer prefers, and
which customers must be made again. Not here: sums over orders (dbt's `customer_features`, `customer_affinities`), the
wording of the sentence (profile_summary, summaries), predictions (null until a model for them is champion) and publishing.

Too little evidence gives a null, and `ineligible_reason` says why. Nothing that merely grows with the calendar enters
`input_hash`: a customer is made again when something happened, or when time alone changed the segment or the stage.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import lake, llm, products, warehouse
from nightmarket.ledger import Outcome
from nightmarket.products.interests import digests, interests, preferred
from nightmarket.products.profile_summary import Facts
from nightmarket.products.summaries import Summary, sum_up
from nightmarket.prompts import SUMMARY_VERSION
from nightmarket.quality.arrivals import shop_toml, shop_zone
from nightmarket.settings import get_settings
from nightmarket.suites.customer_interests import WITHDRAWN

if TYPE_CHECKING:
    import pandas as pd

RULES = "1"  # raise it when a rule below changes: every customer is then made again
READS = ("customer_features", "customer_affinities", "products", "order_items")

REFREEZE_DAYS = 28
LEAST_CUSTOMERS = 30  # quintiles of fewer customers are anecdotes

# A row of the grid is recency (5 = most recent fifth), a column the mean of frequency and value: 1, 2 to 3, 4 to 5.
_GRID = {
    5: ("promising", "potential_loyalists", "champions"),
    4: ("promising", "potential_loyalists", "champions"),
    3: ("about_to_sleep", "need_attention", "loyal"),
    2: ("hibernating", "about_to_sleep", "at_risk"),
    1: ("lost", "hibernating", "cannot_lose"),
}

# Stages are told in the customer's own usual gap, which leans on the shop's while few gaps were seen.
ACTIVE_GAPS, AT_RISK_GAPS = 1.5, 3.0
SHOP_GAP_WEIGHT = 2.0

ORDERS_FOR_NEXT_DATE = 3
ORDERS_FOR_HABITS = 3  # send hour and discount share of fewer orders are accidents
LEAST_TIER_UNITS, LEAST_TIER_SHARE = 3, 0.5
LEAST_BRAND_SHARE = 0.5  # for "mostly from ..."

_HASHED_FEATURES = (
    "customer_id", "locale", "is_bot", "profiling", "first_order_at", "last_order_at", "orders", "net_revenue",
    "average_order_value", "average_days_between_orders", "discount_share", "preferred_send_hour",
)  # fmt: skip


@dataclass(frozen=True)
class Thresholds:
    """Where the fifths of the shop's customers lay on the day they were frozen; None where too few customers had it.

    Attributes:
        recency, frequency, monetary: upper bounds of the first four fifths: days, orders, money.
        usual_gap: median days between two orders of one customer.
    """

    frozen_on: str
    customers: int
    recency: tuple[float, ...] | None
    frequency: tuple[float, ...] | None
    monetary: tuple[float, ...] | None
    usual_gap: float | None


def make(day: date, run_id: str) -> products.Made:
    """The day's profiles and interests of the customers whose input changed since the last published day."""
    features = lake.read("customer_features", day)
    affinities = lake.read("customer_affinities", day)
    zone, locale = shop_zone(), _main_locale()
    customers = assess(features, day, zone, thresholds(day, features, zone))
    customers["price_tier"] = _price_tiers(day, customers["customer_id"])
    profiles, told, made, refused = _touched_profiles(features, customers, affinities, day, zone, locale)
    interests = _touched_interests(customers, affinities, day)
    note = f"{made} of {len(customers)} customers made anew"
    if refused:
        note += f"; {refused} refused profiling and have no profile"
    if by_writer := sum(bool(summary and summary.by) for summary in told):
        note += f"; {by_writer} summed up by the writer"
    outcome = Outcome(
        rows_in=features.num_rows, rows_out=profiles.num_rows + interests.num_rows, note=note,
        tokens_in=sum(summary.tokens_in for summary in told if summary),
        tokens_out=sum(summary.tokens_out for summary in told if summary),
        cost=float(sum(summary.cost for summary in told if summary)),
    )  # fmt: skip
    return products.Made({"customer_profiles": profiles, "customer_interests": interests}, outcome)


def version(day: date) -> str:
    """What decides the rows beside the extracts: the rules, the thresholds, the shop's zone and first locale."""
    told = [RULES, _frozen_for(day), shop_zone().key, _main_locale()]
    if most := get_settings().summaries_per_night:
        with llm.open_generator(day) as writer:
            told += [str(most), writer.version, SUMMARY_VERSION]
    return warehouse.digest(*told)


PRODUCT = products.Product(
    name="profiles",
    tables=("customer_profiles", "customer_interests"),
    reads=READS,
    version=version,
    make=make,
)


def known_facts(day: date) -> list[Facts]:
    """What summaries tell of the customers of a day who ordered, in the order of the extract, without those who refused
    profiling and bots; nothing where the day has no extracts of customers."""
    if lake.manifest("customer_features", day) is None or lake.manifest("customer_affinities", day) is None:
        return []
    affinities = lake.read("customer_affinities", day)
    frame = _frame(lake.read("customer_features", day), day, shop_zone())
    frame = frame[frame["orders"].gt(0) & ~frame["is_bot"] & ~frame["refused"]]
    categories, brands = preferred(affinities, "category"), preferred(affinities, "brand")
    told = zip(frame["customer_id"], frame["orders"], frame["last_on"], frame["gap"], strict=True)
    return [
        _facts(orders, last_on, gap, categories.get(customer, []), brands.get(customer, []))
        for customer, orders, last_on, gap in told
    ]


def thresholds(day: date, features: pa.Table, zone: ZoneInfo) -> Thresholds:
    """The thresholds that hold for a day: frozen at most 28 days before it, else frozen now and kept.

    A day always finds the thresholds that it found the first time, also after an earlier day was backfilled.
    """
    path = _thresholds_path(_frozen_for(day))
    if path.exists():
        found = json.loads(path.read_text())
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return Thresholds(**values)
    fresh = freeze(features, day, zone)
    if fresh.recency is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.parent / f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        scratch.write_text(json.dumps(asdict(fresh), sort_keys=True, indent=1))
        scratch.replace(path)
    return fresh


def freeze(features: pa.Table, day: date, zone: ZoneInfo) -> Thresholds:
    """Where the fifths of today's customers lie: people with an order who did not refuse profiling, and no bots."""
    frame = _frame(features, day, zone)
    frame = frame[frame["orders"].gt(0) & ~frame["is_bot"] & ~frame["refused"]]
    gaps = frame.loc[frame["orders"] > 1, "gap"].dropna()
    usual_gap = round(float(gaps.median()), 2) if len(gaps) and gaps.median() > 0 else None
    if len(frame) < LEAST_CUSTOMERS:
        return Thresholds("none", len(frame), None, None, None, usual_gap)

    def fifths(values: pd.Series) -> tuple[float, ...] | None:
        known = values.dropna()
        if len(known) < LEAST_CUSTOMERS:
            return None
        return tuple(round(float(v), 4) for v in np.quantile(known.to_numpy(float), (0.2, 0.4, 0.6, 0.8)))

    return Thresholds(
        frozen_on=day.isoformat(), customers=len(frame), recency=fifths(frame["recency"]),
        frequency=fifths(frame["orders"]), monetary=fifths(frame["revenue"]), usual_gap=usual_gap,
    )  # fmt: skip


def assess(features: pa.Table, day: date, zone: ZoneInfo, bounds: Thresholds) -> pd.DataFrame:
    """One row a customer, in the order of `features`: recency, segment, stage, next order, and why something is missing.

    Columns beside those of the features: `recency` (days, as of `day`), `segment`, `stage`, `next_order_on`,
    `send_hour`, `discount`, `reason`, `refused`, `thresholds`.
    """
    frame = _frame(features, day, zone)
    ordered, judged = frame["orders"] > 0, ~frame["is_bot"] & ~frame["refused"]
    frame["segment"] = _segments(frame, bounds).where(ordered & judged)
    frame["stage"] = _stages(frame, bounds.usual_gap).where(judged)
    enough = judged & (frame["orders"] >= ORDERS_FOR_NEXT_DATE) & (frame["gap"] > 0)
    ahead = frame["gap"].where(enough).round()
    frame["next_order_on"] = [
        last + timedelta(days=int(days)) if days == days else None
        for last, days in zip(frame["last_on"], ahead, strict=True)
    ]
    habits = judged & (frame["orders"] >= ORDERS_FOR_HABITS)
    frame["send_hour"] = frame["preferred_send_hour"].where(habits)
    frame["discount"] = frame["discount_share"].where(habits).clip(0, 1).round(4)
    frame["reason"] = _reasons(frame, bounds)
    frame["thresholds"] = bounds.frozen_on
    return frame


def _frame(features: pa.Table, day: date, zone: ZoneInfo) -> pd.DataFrame:
    """Features as a frame with numbers as floats; `last_on` is the shop's date, `recency` the days from it to `day`."""
    import pandas as pd

    plain = features
    for n, column in enumerate(plain.schema):
        if pa.types.is_decimal(column.type):
            plain = plain.set_column(n, column.name, plain[column.name].cast(pa.float64()))
    frame = plain.to_pandas()
    local = pd.to_datetime(frame["last_order_at"]).dt.tz_localize("UTC").dt.tz_convert(zone).dt.normalize()
    frame["last_on"] = [None if moment is pd.NaT else moment.date() for moment in local]
    frame["recency"] = [math.nan if on is None else float((day - on).days) for on in frame["last_on"]]
    frame["gap"] = frame["average_days_between_orders"].astype(float)
    frame["revenue"] = frame["net_revenue"].astype(float)
    frame["orders"] = frame["orders"].fillna(0).astype("int64")
    frame["is_bot"] = frame["is_bot"].fillna(False).astype(bool)
    frame["refused"] = frame["profiling"].eq("refused").fillna(False).astype(bool)
    return frame


def _segments(frame: pd.DataFrame, bounds: Thresholds) -> pd.Series:
    import pandas as pd

    if bounds.recency is None or bounds.frequency is None:
        return pd.Series([None] * len(frame), index=frame.index, dtype=object)
    recent = 5 - _passed(frame["recency"], bounds.recency)
    often = 1 + _passed(frame["orders"], bounds.frequency)
    mean = often
    if bounds.monetary is not None:
        worth = 1 + _passed(frame["revenue"], bounds.monetary)
        mean = np.where(frame["revenue"].notna(), (often + worth + 1) // 2, often)
    band = np.where(mean <= 1, 0, np.where(mean <= 3, 1, 2))
    named = pd.Series(
        [_GRID[r][b] for r, b in zip(recent, band, strict=True)], index=frame.index, dtype=object
    )
    return named.where(~((frame["orders"] == 1) & (recent >= 4)), "new_customers")


def _passed(values: pd.Series, bounds: Sequence[float]) -> np.ndarray:
    """How many bounds a value lies above; a missing one lies above none."""
    return (values.to_numpy(float)[:, None] > np.array(bounds)[None, :]).sum(axis=1)


def _stages(frame: pd.DataFrame, usual_gap: float | None) -> pd.Series:
    """prospect (no order), new (one, still within the shop's usual time), active, at_risk, lapsed; else None."""
    import pandas as pd

    gaps = (frame["orders"] - 1).clip(lower=0)
    own = frame["gap"].fillna(0.0)
    if usual_gap is None:
        expected = own.where((gaps > 0) & (own > 0))
    else:
        expected = (own * gaps + usual_gap * SHOP_GAP_WEIGHT) / (gaps + SHOP_GAP_WEIGHT)
    ratio = frame["recency"] / expected.clip(lower=1.0)
    chosen = np.select(
        [
            frame["orders"] == 0,
            (frame["orders"] == 1) & (ratio <= ACTIVE_GAPS),
            ratio <= ACTIVE_GAPS,
            ratio <= AT_RISK_GAPS,
            ratio > AT_RISK_GAPS,
        ],
        ["prospect", "new", "active", "at_risk", "lapsed"],
        default="",
    )
    return pd.Series(chosen, index=frame.index, dtype=object).where(chosen != "", None)


def _reasons(frame: pd.DataFrame, bounds: Thresholds) -> list[str | None]:
    """Why values are missing, most telling first, or None where nothing of the past is missing."""
    counted = zip(
        frame["is_bot"], frame["refused"], frame["orders"], frame["revenue"].isna(), frame["gap"], strict=True
    )
    found: list[str | None] = []
    for is_bot, refused, orders, no_prices, gap in counted:
        if refused:
            found.append("refused profiling")
            continue
        if is_bot:
            found.append("bot")
            continue
        if orders == 0:
            found.append("no orders")
            continue
        said = []
        if orders == 1:
            said.append("one order")
        elif orders < ORDERS_FOR_NEXT_DATE:
            said.append("two orders")
        elif not gap > 0:
            said.append("all orders on one day")
        if bounds.recency is None:
            said.append("too few customers for segments")
        if no_prices:
            said.append("no prices")
        found.append("; ".join(said) or None)
    return found


def _touched_profiles(
    features: pa.Table, customers: pd.DataFrame, affinities: pa.Table, day: date, zone: ZoneInfo, locale: str
) -> tuple[pa.Table, list[Summary | None], int, int]:
    """Rows of the profiles to be made, their summaries, how many are made, and how many customers refused."""
    categories, brands = preferred(affinities, "category"), preferred(affinities, "brand")
    named = [c for c in _HASHED_FEATURES if c in customers.columns]
    parts = [
        customers[c].astype(object).tolist() for c in (*named, "price_tier", "segment", "stage", "thresholds")
    ]
    ids = customers["customer_id"].tolist()
    hashes = [
        warehouse.digest(RULES, locale, zone.key, categories.get(customer), brands.get(customer), *values)
        for customer, values in zip(ids, zip(*parts, strict=True), strict=True)
    ]
    before = _previous("customer_profiles", day)
    refused = customers["refused"].tolist()
    gone = warehouse.digest(RULES, "refused")
    # Who refuses after a profile was published gets one row that says only so, and it takes the old one's place.
    wanted = [gone if no else own for no, own in zip(refused, hashes, strict=True)]
    chosen = [
        n for n, customer in enumerate(ids)
        if before.get(customer) != wanted[n] and (not refused[n] or customer in before)
    ]  # fmt: skip
    frame = customers.iloc[chosen]
    keep = ~frame["refused"] & ~frame["is_bot"]
    rows = frame["customer_id"].tolist()
    shown = keep.tolist()
    locales = features["locale"].take(pa.array(chosen, pa.int64())).to_pylist()
    facts = zip(frame["orders"], frame["last_on"], frame["gap"], locales, strict=True)
    told = sum_up([
        (_facts(orders, last_on, gap, categories.get(customer, []), brands.get(customer, [])), own or locale)
        if ok else None
        for customer, ok, (orders, last_on, gap, own) in zip(rows, shown, facts, strict=True)
    ], frame["revenue"].tolist(), day)  # fmt: skip
    # Whose writer was not there is due again.
    due = [summary is not None and summary.is_due for summary in told]
    by = [summary.by if summary else None for summary in told]
    blank = frame["refused"]

    def lists(found: Mapping[str, list[tuple[str, float]]]) -> list[str | None]:
        return [
            json.dumps([value for value, _ in found[c]], ensure_ascii=False) if ok and c in found else None
            for c, ok in zip(rows, shown, strict=True)
        ]

    def column(name: str, kind: pa.DataType, *, judged: bool = False) -> pa.Array:
        hidden = ~keep if judged else blank
        values = [None if hide else value for value, hide in zip(_values(frame[name]), hidden, strict=True)]
        return pa.array([_plain(v, kind) for v in values], kind)

    table = pa.table({
        "customer_id": pa.array(rows, pa.string()),
        "first_order_at": column("first_order_at", pa.timestamp("us")),
        "last_order_at": column("last_order_at", pa.timestamp("us")),
        "rfm_recency_days": column("recency", pa.int64()),
        "rfm_frequency": column("orders", pa.int64()),
        "rfm_monetary": column("revenue", pa.float64()),
        "rfm_segment": column("segment", pa.string(), judged=True),
        "historic_clv": column("revenue", pa.float64()),
        "expected_date_of_next_order": column("next_order_on", pa.date32(), judged=True),
        "average_order_value": column("average_order_value", pa.float64()),
        "average_days_between_orders": column("gap", pa.float64()),
        "preferred_categories": pa.array(lists(categories), pa.string()),
        "preferred_brands": pa.array(lists(brands), pa.string()),
        "price_tier": column("price_tier", pa.string(), judged=True),
        "discount_affinity": column("discount", pa.float64(), judged=True),
        "preferred_send_hour": column("send_hour", pa.int64(), judged=True),
        "lifecycle_stage": column("stage", pa.string(), judged=True),
        "summary": pa.array([summary.text if summary else None for summary in told], pa.string()),
        "ineligible_reason": pa.array(_values(frame["reason"]), pa.string()),
        "input_hash": pa.array(
            [warehouse.digest(wanted[n], "provisional") if again else wanted[n] for n, again in zip(chosen, due, strict=True)],
            pa.string(),
        ),
        "model_name": pa.array([f"rfm+{name}" if name else "rfm" for name in by], pa.string()),
        "model_version": pa.array(frame["thresholds"].tolist(), pa.string()),
    })  # fmt: skip
    for money in ("rfm_monetary", "historic_clv", "average_order_value"):
        rounded = pc.round(table[money], 4).cast(pa.decimal128(18, 4))
        table = table.set_column(table.column_names.index(money), money, rounded)
    return table, told, int((~frame["refused"]).sum()), int(sum(refused))


def _touched_interests(customers: pd.DataFrame, affinities: pa.Table, day: date) -> pa.Table:
    """Interest rows of customers whose signs changed; one row `(none)` for those who have none any more."""
    allowed = set(customers.loc[~customers["refused"] & ~customers["is_bot"], "customer_id"])
    found = interests(affinities)
    found = found[found["customer_id"].isin(allowed)]
    signs = digests(
        affinities, ("dimension", "value", "purchases", "views", "reviews", "last_seen_at", "evidence")
    )
    now = {
        customer: warehouse.digest(RULES, signs[customer]) for customer in dict.fromkeys(found["customer_id"])
    }
    before = _previous("customer_interests", day)
    none = warehouse.digest(RULES, WITHDRAWN)
    gone = sorted(customer for customer, old in before.items() if customer not in now and old != none)
    changed = [before.get(customer) != now[customer] for customer in found["customer_id"]]
    found = found[np.array(changed, dtype=bool)]
    empty = [None] * len(gone)
    return pa.table({
        "customer_id": pa.array([*found["customer_id"], *gone], pa.string()),
        "interest": pa.array([*found["interest"], *[WITHDRAWN] * len(gone)], pa.string()),
        "weight": pa.array([*found["weight"], *empty], pa.float64()),
        "rank": pa.array([*found["rank"], *[0] * len(gone)], pa.int64()),
        "share_purchase": pa.array([*found["share_purchase"], *empty], pa.float64()),
        "share_browse": pa.array([*found["share_browse"], *empty], pa.float64()),
        "share_review": pa.array([*found["share_review"], *empty], pa.float64()),
        "evidence": pa.array([*found["evidence"], *empty], pa.string()),
        "last_seen_at": pa.array([*found["last_seen_at"], *empty], pa.timestamp("us")),
        "input_hash": pa.array([*(now[c] for c in found["customer_id"]), *[none] * len(gone)], pa.string()),
        "model_name": pa.array(["interests"] * (len(found) + len(gone)), pa.string()),
        "model_version": pa.array([RULES] * (len(found) + len(gone)), pa.string()),
    })  # fmt: skip


def _facts(
    orders: int,
    last_on: date | None,
    gap: float,
    categories: list[tuple[str, float]],
    brands: list[tuple[str, float]],
) -> Facts:
    return Facts(
        orders=orders,
        last_on=last_on,
        every_days=round(gap) if orders >= ORDERS_FOR_NEXT_DATE and gap > 0 else None,
        categories=tuple(dict.fromkeys(value.split(" > ")[-1] for value, _ in categories))[:2],
        brand=brands[0][0] if brands and brands[0][1] >= LEAST_BRAND_SHARE else None,
    )


def _values(column: pd.Series) -> list[Any]:
    """A column's values, missing ones as None."""
    return [None if value is None or value != value else value for value in column]


def _plain(value: Any, kind: pa.DataType) -> Any:
    """A value of a frame as Arrow takes it: whole numbers that a null had made floats become whole again."""
    if value is not None and pa.types.is_integer(kind):
        return int(value)
    return value


def _price_tiers(day: date, customers: pd.Series) -> list[str | None]:
    """The tier that most of a customer's kept units are of: three units at least, half of them in that tier."""
    tiers = lake.read("products", day, ["product_id", "price_tier"])
    tiers = tiers.filter(pc.is_valid(tiers["price_tier"]))
    if tiers.num_rows == 0:
        return [None] * len(customers)
    items = lake.read("order_items", day, ["customer_id", "product_id", "net_quantity"])
    bought = items.filter(pc.greater(items["net_quantity"], 0)).join(tiers, "product_id", join_type="inner")
    counts = bought.group_by(["customer_id", "price_tier"]).aggregate([("net_quantity", "sum")]).to_pandas()
    counts = counts.sort_values(
        ["customer_id", "net_quantity_sum", "price_tier"], ascending=[True, False, True]
    )
    total = counts.groupby("customer_id", sort=False)["net_quantity_sum"].transform("sum")
    first = ~counts.duplicated("customer_id")
    enough = first & (total >= LEAST_TIER_UNITS) & (counts["net_quantity_sum"] >= LEAST_TIER_SHARE * total)
    named = dict(zip(counts.loc[enough, "customer_id"], counts.loc[enough, "price_tier"], strict=True))
    return [named.get(customer) for customer in customers]


def _previous(table: str, day: date) -> dict[str, str]:
    rows = products.previous(table, day, ("input_hash",))
    return dict(zip(rows["customer_id"].to_pylist(), rows["input_hash"].to_pylist(), strict=True))


def _thresholds_path(frozen_on: str) -> Path:
    return get_settings().state / "profiles" / f"thresholds-{frozen_on}.json"


def _frozen_for(day: date) -> str:
    """The day whose thresholds hold for `day`: the latest frozen within 28 days before it, else the day itself."""
    frozen = sorted(
        path.stem.removeprefix("thresholds-")
        for path in _thresholds_path("none").parent.glob("thresholds-*.json")
    )
    since, until = (day - timedelta(days=REFREEZE_DAYS - 1)).isoformat(), day.isoformat()
    return next((on for on in reversed(frozen) if since <= on <= until), until)


def _main_locale() -> str:
    """The first locale of `shop.toml`, or English."""
    path = shop_toml()
    locales = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("locales") if path.is_file() else None
    return str(locales[0]) if isinstance(locales, list) and locales else "en"
