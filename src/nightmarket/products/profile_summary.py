"""One sentence about a customer, made of facts alone: English, or Chinese where the locale asks for it.

Not here: the same in a writer's own words (summaries), which facts have enough evidence to be told (profiles). Dates are named
instead of "days ago", because a row stays current until something changes. The cadence is that of all orders, so the sentence
never ties it to one category.
Names of categories and brands come from the catalogue; nothing comes from what a customer wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from nightmarket import guard

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
LONGEST_NAME = 60


@dataclass(frozen=True)
class Facts:
    """What is told: `every_days` is the customer's cadence, `brand` the one that most purchases are of."""

    orders: int
    last_on: date | None = None
    every_days: int | None = None
    categories: tuple[str, ...] = ()
    brand: str | None = None


def summarise(facts: Facts, locale: str) -> str:
    """The sentence; always one, always grammatical, whatever is missing."""
    told = tellable(facts)
    return _chinese(told) if locale.lower().startswith("zh") else _english(told)


def tellable(facts: Facts) -> Facts:
    """The facts without names that cannot stand in a sentence."""
    return Facts(
        facts.orders,
        facts.last_on,
        facts.every_days,
        tuple(name for name in facts.categories if _fits(name)),
        facts.brand if facts.brand and _fits(facts.brand) else None,
    )


def day_of(day: date) -> str:
    """A day as an English sentence says it."""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def names_of(facts: Facts) -> str:
    """The categories as an English sentence says them."""
    return " and ".join(_lower(name) for name in facts.categories)


def _english(facts: Facts) -> str:
    if facts.orders == 0 or facts.last_on is None:
        return "No orders yet."
    on, names = day_of(facts.last_on), names_of(facts)
    what = f", most often {names}" if names else ""
    brand = f", mostly from {facts.brand}" if facts.brand else ""
    if facts.orders == 1:
        what = what.replace("most often", "mostly")
        brand = brand.replace("mostly ", "") if what else brand
        return f"Ordered once, on {on}{what}{brand}."
    if facts.every_days is not None:
        every = "day" if facts.every_days <= 1 else f"{facts.every_days} days"
        return f"Orders about every {every}{what}{brand}; last order on {on}, {facts.orders:,} orders so far."
    times = "twice" if facts.orders == 2 else f"{facts.orders:,} times"
    return f"Ordered {times} so far{what}{brand}, the last time on {on}."


def _chinese(facts: Facts) -> str:
    if facts.orders == 0 or facts.last_on is None:
        return "尚未下单。"
    on = f"{facts.last_on.year}年{facts.last_on.month}月{facts.last_on.day}日"
    what = f"，最常买{'和'.join(facts.categories)}" if facts.categories else ""
    brand = f"，多选{facts.brand}品牌" if facts.brand else ""
    if facts.orders == 1:
        return f"{on}下过一单{what.replace('最常买', '主要买了')}{brand}。"
    if facts.every_days is not None:
        every = "几乎每天" if facts.every_days <= 1 else f"大约每{facts.every_days}天"
        return f"{every}下一单{what}{brand}；最近一次下单是{on}，累计{facts.orders}单。"
    return f"累计下过{facts.orders}单{what}{brand}；最近一次是{on}。"


@lru_cache(maxsize=50_000)
def _fits(name: str) -> bool:
    """Whether a name from the catalogue can stand in a sentence: short, printable, no contact data or instructions."""
    plain = 0 < len(name.strip()) <= LONGEST_NAME and name.isprintable()
    return plain and not guard.personal(name) and not guard.injection(name)


def _lower(name: str) -> str:
    """A category inside a sentence: `Nail Polish` → `nail polish`, but `TV & Audio` → `TV & audio`."""
    return " ".join(word.lower() if word[1:].islower() else word for word in name.split())
