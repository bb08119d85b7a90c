"""A rule of the shop: read from a row, checked by itself and against the others.

Here: what each action needs, when a rule is in force, and when rules cannot hold together. Not here: types and accepted
values of a file's cells (the landing contract, which sets such rows aside), and what rules do to a list (arrange).

Everything that has not ended yet is checked, for the day and for every later day on which a rule begins: who edits the rules
learns of a conflict tonight, and not on the first night of the sale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket.contracts import LANDING, PLACEMENTS, RULE_ACTIONS
from nightmarket.merchandising.matching import Catalogue

MOST_IN_FORCE = 62  # a slot says in the bits of one number which rules touched it
LONGEST_LIST = 200
LONGEST_WINDOW = 28
GREATEST_FACTOR = 1000.0
# Several rules at one slot, equal priority: what keeps out wins over what puts in; then the lower id.
PRECEDENCE = ("filter", "frequency_cap", "cap", "pin", "promote", "boost", "bury")
SELECTORS = ("product_id", "brand", "category", "attribute")
# What the number of an action must be: least, most, whether they are excluded, whole, and in words.
_VALUES: dict[str, tuple[float, float, bool, bool, str]] = {
    "boost": (1, GREATEST_FACTOR, True, False, "a factor above 1, for example 1.5"),
    "bury": (0, 1, True, False, "a factor between 0 and 1, for example 0.5 (to leave products out, use `filter`)"),
    "pin": (1, LONGEST_LIST, False, True, f"a place in the list, a whole number from 1 to {LONGEST_LIST}"),
    "promote": (0, 1, False, False, "a share of the slots above 0 and up to 1, for example 0.05"),
    "cap": (1, LONGEST_LIST, False, True, f"how many may stand in one list, a whole number from 1 to {LONGEST_LIST}"),
    "frequency_cap": (1, 1_000_000, False, True, "after how many showings a product is left out, a whole number from 1"),
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One rule; see the landing table `recommendation_rules` for its columns."""

    rule_id: str
    action: str
    placement: str | None = None
    product_id: str | None = None
    brand: str | None = None
    category: str | None = None
    attribute: str | None = None
    value: float | None = None
    per: str | None = None
    within_days: int | None = None
    owner: str | None = None
    reason: str | None = None
    starts_on: date | None = None
    ends_on: date | None = None
    priority: int = 0

    @property
    def placements(self) -> tuple[str, ...]:
        return PLACEMENTS if self.placement is None else (self.placement,)

    @property
    def selectors(self) -> dict[str, str]:
        return {name: told for name in SELECTORS if (told := getattr(self, name)) is not None}

    @property
    def order(self) -> tuple[int, int, str]:
        """Rules in the order in which they win over each other."""
        return (-self.priority, PRECEDENCE.index(self.action), self.rule_id)

    def in_force(self, day: date) -> bool:
        return (self.starts_on is None or self.starts_on <= day) and (
            self.ends_on is None or day <= self.ends_on
        )

    def told(self) -> str:
        """What it says of the products, for messages."""
        return " and ".join(f"{name} `{value}`" for name, value in self.selectors.items()) or "all products"


def read(table: pa.Table, day: date) -> tuple[list[Rule], list[str]]:
    """The rules of a table, typed or all text, that have not ended, ordered by id; and a sentence for each fault."""
    rules: list[Rule] = []
    problems: list[str] = []
    names = [c.name for c in LANDING["recommendation_rules"].columns]
    missing = [name for name in ("rule_id", "action") if name not in table.column_names]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        return [], [
            f"The rules lack the column {listed}. Columns are {', '.join(names)}; see docs/tables.md."
        ]
    for number, row in enumerate(
        table.select([n for n in names if n in table.column_names]).to_pylist(), start=1
    ):
        rule, found = _rule(row, number, day)
        problems += found
        if rule is not None:
            rules.append(rule)
    rules.sort(key=lambda rule: rule.rule_id)
    twice = sorted({a.rule_id for a, b in pairwise(rules) if a.rule_id == b.rule_id})
    problems += [f"Rule `{rule_id}` stands more than once: give each rule an id of its own." for rule_id in twice]  # fmt: skip
    return rules, problems


def faults(rule: Rule) -> list[str]:
    """What is wrong with a rule by itself, a sentence each."""
    named = f"Rule `{rule.rule_id}`"
    found = []
    if rule.action not in RULE_ACTIONS:
        return [f"{named}: there is no action {rule.action!r}; write one of {', '.join(RULE_ACTIONS)}."]
    if rule.placement is not None and rule.placement not in PLACEMENTS:
        found.append(
            f"{named}: there is no placement {rule.placement!r}; write one of {', '.join(PLACEMENTS)}, or nothing for all."
        )
    if rule.starts_on and rule.ends_on and rule.ends_on < rule.starts_on:
        found.append(
            f"{named} ends on {rule.ends_on}, before it starts on {rule.starts_on}; swap or correct the days."
        )
    if wanted := _VALUES.get(rule.action):
        low, high, open_, whole, words = wanted
        value = rule.value
        good = value is not None and (low < value < high if open_ else low <= value <= high)
        good = (
            good and (not whole or value == int(value or 0)) and not (rule.action == "promote" and value == 0)
        )
        if not good:
            found.append(
                f"{named}: the value of a `{rule.action}` is {words}; it is {'empty' if value is None else f'{value:g}'}."
            )
    if rule.action == "pin" and rule.product_id is None:
        found.append(f"{named}: a `pin` needs a product_id: the product to pin.")
    elif rule.action in ("filter", "boost", "bury", "promote") and not rule.selectors:
        found.append(
            f"{named}: a `{rule.action}` needs products to speak of: fill product_id, brand, category or attribute."
        )
    name, _, fact = (rule.attribute or "").partition("=")
    if rule.attribute is not None and not (name.strip() and fact.strip()):
        found.append(f"{named}: attribute {rule.attribute!r} must be a name and a value: Colour=blue.")
    if rule.per is not None and rule.per not in ("brand", "category"):
        found.append(f"{named}: per is `brand` or `category`, not {rule.per!r}.")
    if rule.action == "cap" and rule.per is None and not rule.selectors:
        found.append(
            f"{named}: a `cap` counts per `brand`, per `category`, or the products of a selector; fill one."
        )
    if rule.action == "frequency_cap" and not 1 <= (rule.within_days or 0) <= LONGEST_WINDOW:
        found.append(
            f"{named}: a `frequency_cap` needs within_days, from 1 to {LONGEST_WINDOW}: how many days back showings "
            f"count; it is {rule.within_days if rule.within_days is not None else 'empty'}."
        )
    return found


def check(rules: Sequence[Rule], day: date, catalogue: Catalogue) -> tuple[list[str], list[str]]:
    """Problems with rules (each fit by itself) from `day` on, and warnings of what is in force but will have no effect."""
    live = [rule for rule in rules if rule.ends_on is None or rule.ends_on >= day]
    matches = {rule.rule_id: catalogue.matches(rule) for rule in live}
    problems: dict[str, date] = {}
    for moment in sorted(
        {day, *(rule.starts_on for rule in live if rule.starts_on and rule.starts_on > day)}
    ):
        now = [rule for rule in live if rule.in_force(moment)]
        for problem in _conflicts(now, matches, catalogue):
            problems.setdefault(problem, moment)
    told = [
        problem if moment == day else f"From {moment} on: {problem}" for problem, moment in problems.items()
    ]
    return told, [text for rule in live if rule.in_force(day) for text in _warnings(rule, matches, catalogue)]


def _conflicts(
    rules: Sequence[Rule], matches: Mapping[str, NDArray[np.bool_]], catalogue: Catalogue
) -> Iterable[str]:
    if len(rules) > MOST_IN_FORCE:
        yield (
            f"{len(rules)} rules are in force at once, and at most {MOST_IN_FORCE} can be: end some, or join them (a brand or "
            f"a category instead of single products). The last ids are {', '.join(r.rule_id for r in rules[-3:])}."
        )
    told: set[tuple[str, ...]] = set()
    for placement in PLACEMENTS:
        here = [rule for rule in rules if placement in rule.placements]
        filters = [rule for rule in here if rule.action == "filter"]
        found: list[tuple[tuple[str, ...], str]] = [
            *_pins_that_collide(here),
            *_put_in_and_filtered(here, filters, matches, catalogue),
        ]
        shares = [rule for rule in here if rule.action == "promote"]
        if sum(rule.value or 0 for rule in shares) > 1 + 1e-9:
            ids = ", ".join(f"`{rule.rule_id}`" for rule in shares)
            total = sum(rule.value or 0 for rule in shares)
            found.append((("shares", ids), f"Rules {ids} promote {total:g} of the slots together, which is more than all (placement {placement}): lower their values."))  # fmt: skip
        left = catalogue.available.copy()
        for rule in filters:
            left &= ~matches[rule.rule_id]
        if filters and catalogue.available.any() and not left.any():
            ids = ", ".join(f"`{rule.rule_id}`" for rule in filters)
            found.append((("nothing", ids), f"The filters {ids} leave no available product at all (placement {placement}): narrow one of them, or give it a placement or an end."))  # fmt: skip
        for key, text in found:
            if key not in told:
                told.add(key)
                yield text


def _pins_that_collide(rules: Sequence[Rule]) -> list[tuple[tuple[str, ...], str]]:
    pins = [rule for rule in rules if rule.action == "pin"]
    return [
        (("pins", a.rule_id, b.rule_id),
         f"Rules `{a.rule_id}` and `{b.rule_id}` both pin place {a.value:g} with priority {a.priority}: give one of them "
         f"another place, other days, or a higher priority.")
        for i, a in enumerate(pins) for b in pins[i + 1 :] if a.value == b.value and a.priority == b.priority
    ]  # fmt: skip


def _put_in_and_filtered(
    rules: Sequence[Rule], filters: Sequence[Rule], matches: Mapping[str, NDArray[np.bool_]], catalogue: Catalogue
) -> list[tuple[tuple[str, ...], str]]:  # fmt: skip
    found: list[tuple[tuple[str, ...], str]] = []
    for rule in rules:
        if rule.action not in ("pin", "promote"):
            continue
        strong = [f for f in filters if f.priority >= rule.priority]
        wanted = matches[rule.rule_id]
        left = wanted.copy()
        for other in strong:
            left &= ~matches[other.rule_id]
        if wanted.any() and not left.any():
            guilty = [f for f in strong if (matches[f.rule_id] & wanted).any()]
            ids = ", ".join(f"`{f.rule_id}`" for f in guilty)
            found.append((
                ("filtered", rule.rule_id, ids),
                f"Rule `{rule.rule_id}` wants to {rule.action} what {'filter' if len(guilty) == 1 else 'the filters'} {ids} "
                f"leaves out ({rule.told()}): take one away, or give `{rule.rule_id}` a priority above "
                f"{max(f.priority for f in guilty)}.",
            ))  # fmt: skip
    return found


def _warnings(rule: Rule, matches: Mapping[str, NDArray[np.bool_]], catalogue: Catalogue) -> Iterable[str]:
    named, mine = f"Rule `{rule.rule_id}`", matches[rule.rule_id]
    if not mine.any():
        yield f"{named} matches no product ({rule.told()}): it has no effect."
    elif rule.action in ("pin", "promote") and not (mine & catalogue.available).any():
        yield f"{named} cannot {rule.action} anything: no product of it is available ({rule.told()})."
    if rule.action == "frequency_cap" and rule.placement == "product_page":
        yield f"{named} has no effect: lists of a product page are a product's, and nobody's showings count for them."


def _rule(row: Mapping[str, Any], number: int, day: date) -> tuple[Rule | None, list[str]]:
    told: dict[str, Any] = {
        name: (value.strip() or None) if isinstance(value, str) else value for name, value in row.items()
    }
    rule_id, action = told.get("rule_id"), told.get("action")
    if rule_id is None:
        return None, [f"Row {number} has no rule_id: give the rule one."]
    problems: list[str] = []
    kinds = {
        "value": _number, "within_days": _whole, "priority": _whole, "starts_on": _day, "ends_on": _day,
    }  # fmt: skip
    for name, convert in kinds.items():
        try:
            told[name] = convert(told.get(name))
        except ValueError as error:
            problems.append(f"Rule `{rule_id}`: {name} is {told[name]!r}, which is not {error}.")
            told[name] = None
    if problems:
        return None, problems
    if isinstance(told["value"], float) and not np.isfinite(told["value"]):
        return None, [f"Rule `{rule_id}`: value is {told['value']!r}, which is not a number."]
    if told["ends_on"] is not None and told["ends_on"] < day:
        return None, []
    told |= {"rule_id": str(rule_id), "action": str(action or ""), "priority": told["priority"] or 0}
    rule = Rule(**told)
    problems = faults(rule)
    return (None, problems) if problems else (rule, [])


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError("a number") from None


def _whole(value: Any) -> int | None:
    number = _number(value)
    if number is not None and (not np.isfinite(number) or number != int(number)):
        raise ValueError("a whole number")
    return None if number is None else int(number)


def _day(value: Any) -> date | None:
    if value is None or isinstance(value, date):
        return value.date() if isinstance(value, datetime) else value
    try:
        return datetime.fromisoformat(str(value)).date()
    except ValueError:
        raise ValueError("a day like 2026-12-01") from None
