"""The demo shop as it stands before anything happens: products, customers, what they like, and the calendar.

Everything follows from a `Demo` (seed and sizes) in closed form, so that any single day can be made alone. Days are
numbered: 0 is the first day of the history, `days - 1` its last. Not here: what happens on a day (demo_days), files (demo).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nightmarket.shops.demo_catalogue import ENGLISH, Leaf
from nightmarket.shops.demo_catalogue_zh import CHINESE
from nightmarket.shops.demo_voices import BANNED_CLAIMS, family_and_given_names

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LEAVES: tuple[Leaf, ...] = ENGLISH + CHINESE
BRANDS = sorted({(leaf.key, brand) for leaf in LEAVES for brand in leaf.brands})
NEVER = 1_000_000
RESERVE = 60  # products that appear one by one after the history
CHINESE_SHARE = 0.3

# What kinds of people shop here, and for what: weights of leaf categories.
PERSONAS: dict[str, dict[str, float]] = {
    "home cook": {"pans": 4, "knives": 3, "oils": 5, "boxes": 4, "nuts": 2},
    "coffee at the office": {"coffee": 6, "brew": 3, "nuts": 3, "pens": 2, "paper": 2},
    "tea and quiet": {"tea": 6, "brew": 2, "scent": 3, "linen": 2, "paper": 1},
    "new parent": {"nappies": 7, "toys": 4, "cleaning": 3, "skincare": 1},
    "cat": {"cats": 7, "cleaning": 3, "scent": 1, "lamps": 1},
    "dog and running": {"dogs": 6, "run": 4, "sun": 2, "audio": 1},
    "skin and hair": {"skincare": 6, "sun": 4, "hair": 4, "scent": 1},
    "studio": {"paper": 4, "pens": 4, "lamps": 3, "audio": 3, "power": 2},
    "yoga": {"yoga": 4, "run": 3, "tea": 3, "nuts": 3, "sun": 2},
    "茶客": {"乌龙茶": 6, "普洱": 5, "茶具": 4, "坚果零食": 2},
    "下厨": {"调味": 6, "锅具": 3, "收纳": 3, "坚果零食": 2, "oils": 1},
    "爱美": {"面膜": 6, "洗护": 5, "skincare": 2, "sun": 2},
    "带娃": {"母婴": 7, "洗护": 2, "收纳": 3, "toys": 2},
    "猫家": {"猫用品": 7, "收纳": 2, "坚果零食": 2},
    "文人": {"文房": 5, "乌龙茶": 3, "茶具": 2, "paper": 2},
}
CHINESE_PERSONAS = tuple(i for i, name in enumerate(PERSONAS) if not name.isascii())
ENGLISH_PERSONAS = tuple(i for i, name in enumerate(PERSONAS) if name.isascii())

WEEKDAYS = (0.92, 0.88, 0.92, 0.98, 1.08, 1.20, 1.10)  # Monday first
MONTHS = (0.95, 0.95, 0.92, 0.92, 0.90, 1.00, 0.96, 1.00, 1.08, 1.00, 1.14, 1.25)
SALES = {(6, 6): 1.3, (9, 9): 1.4, (10, 10): 1.4, (11, 11): 2.0, (12, 12): 1.8}
SEASONS: dict[str, dict[int, float]] = {
    "礼盒": {8: 4.0, 9: 9.0, 10: 0.6, 12: 1.5, 1: 5.0},
    "paper": {7: 1.6, 8: 2.4, 12: 1.5},
    "sun": {5: 1.8, 6: 2.2, 7: 1.8},
    "scent": {11: 1.8, 12: 2.5},
    "toys": {11: 1.6, 12: 2.5},
}
BUNDLE_RATE = 0.6
LIFT = 0.30  # the experiment's true effect on orders a day
EXPERIMENT = "free-delivery-from-30"


@dataclass(frozen=True)
class Demo:
    """Which demo shop: everything in its files follows from these numbers."""

    seed: int = 7
    customers: int = 2_000
    products: int = 600
    days: int = 180
    end: date = date(2026, 11, 21)

    @property
    def start(self) -> date:
        return self.end - timedelta(days=self.days - 1)

    def number(self, day: date) -> int:
        return (day - self.start).days

    def date_of(self, number: int) -> date:
        return self.start + timedelta(days=number)

    def rng(self, what: str, number: int = 0) -> np.random.Generator:
        """Chance for one purpose and one day; days do not share it, so each can be made alone."""
        return np.random.default_rng(
            [self.seed, int.from_bytes(what.encode(), "big"), self.start.toordinal() + number]
        )

    @property
    def bot_days(self) -> tuple[int, ...]:
        a, b = round(self.days * 0.35), round(self.days * 0.6)
        return (a, a + 1, b, b + 1)

    @property
    def broken_day(self) -> int:
        """The day whose orders feed broke and carried 6 % of its orders."""
        return round(self.days * 0.86)

    @property
    def experiment_days(self) -> tuple[int, int]:
        """First and last day on which the treatment works."""
        return round(self.days * 0.73), round(self.days * 0.95)


@dataclass
class Product:
    """A product at the start; prices and stock change in `World.prices` and `World.stocks`."""

    leaf: int
    locale: str
    title: str
    brand: str
    noun: str
    description: str | None
    attributes: str
    price: float
    created: int
    archived: int = NEVER
    sold_out: int = NEVER
    draft: bool = False
    sold_from: int = -NEVER
    twin_of: int | None = None
    banned: str | None = None


@dataclass
class Customers:
    """Customers as columns; a row's number is the customer's index for ever."""

    locale: list[str] = field(default_factory=list)
    country: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    signup: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    rate: Floats = field(default_factory=lambda: np.zeros(0))
    period: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    phase: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    churn: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    hour: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    taste: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    later_taste: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # from day `turn` on
    turn: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    staples: Ints = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    treated: Flags = field(default_factory=lambda: np.zeros(0, bool))
    exposed: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    refuses: Flags = field(default_factory=lambda: np.zeros((0, 4), bool))


class World:
    """Products, customers and calendar up to and with day `until` (never before the end of the history)."""

    bot = 17  # index of the customer that is a program

    def __init__(self, demo: Demo, until: int) -> None:
        self.demo = demo
        self.until = max(until, demo.days - 1)
        self.products = _products(demo)
        self.leaf_of = np.array([p.leaf for p in self.products])
        self.consumable = np.array([LEAVES[p.leaf].consumable for p in self.products])
        self.bundles = self._bundles()
        self._price_and_stock()
        self.customers = self._people(demo.rng("people"), demo.customers, None)
        self.counts = {n: demo.customers for n in range(demo.days)}
        for number in range(demo.days, self.until + 1):
            rng = demo.rng("newcomers", number)
            few = int(rng.poisson(demo.customers * 0.0015))
            self.customers = _joined(self.customers, self._people(rng, few, number))
            self.counts[number] = len(self.customers.locale)

    def product_id(self, index: int) -> str:
        return f"P{index + 1:04d}"

    def customer_id(self, index: int) -> str:
        return f"C{index + 1:05d}"

    def calendar(self, number: int) -> float:
        """How busy a day is, 1.0 being an average one."""
        day = self.demo.date_of(number)
        return WEEKDAYS[day.weekday()] * MONTHS[day.month - 1] * SALES.get((day.month, day.day), 1.0)

    def sellable(self, number: int) -> Flags:
        """Which products can be bought on a day."""
        return np.array([
            p.created < number and p.sold_from <= number < min(p.archived, p.sold_out) and not p.draft for p in self.products
        ])  # fmt: skip

    def season(self, number: int) -> Floats:
        """How much a product is wanted in the month of a day, by product."""
        month = self.demo.date_of(number).month
        return np.array(
            [SEASONS.get(leaf.key, {}).get(month, 0.4 if leaf.key == "礼盒" else 1.0) for leaf in LEAVES]
        )[self.leaf_of]

    def promoted(self, number: int) -> Floats:
        """The share off a product's price in the week of a day."""
        week = self.demo.date_of(number).toordinal() // 7
        rng = np.random.default_rng([self.demo.seed, 77, week])
        return np.where(
            rng.random(len(self.products)) < 0.05, rng.choice([0.1, 0.15, 0.2], len(self.products)), 0.0
        )

    @cached_property
    def partners(self) -> dict[int, tuple[int, ...]]:
        """What a product of a bundle is bought together with."""
        return {p: tuple(q for q in bundle if q != p) for bundle in self.bundles for p in bundle}

    def _always(self) -> list[int]:
        """Products that can be bought on every day."""
        return [
            i for i, p in enumerate(self.products)
            if p.created < 0 and not p.draft and p.archived == p.sold_out == NEVER and p.sold_from < 0
        ]  # fmt: skip

    def _bundles(self) -> list[tuple[int, ...]]:
        rng = self.demo.rng("bundles")
        free = set(self._always())
        bundles: list[tuple[int, ...]] = []
        wanted = max(3, self.demo.products // 35)
        for turn in range(wanted * 4):
            persona = list(PERSONAS.values())[turn % len(PERSONAS)]
            size = 3 if turn % 5 == 4 else 2
            leaves = rng.permutation([i for i, leaf in enumerate(LEAVES) if leaf.key in persona])[:size]
            picks = [sorted(p for p in free if self.leaf_of[p] == leaf) for leaf in leaves]
            if len(picks) < size or not all(picks):
                continue
            bundle = tuple(int(rng.choice(pick)) for pick in picks)
            free -= set(bundle)
            bundles.append(bundle)
            if len(bundles) == wanted:
                break
        return bundles

    def _price_and_stock(self) -> None:
        """Prices and stocks by day and product, and which products changed on which day."""
        count = len(self.products)
        price = np.array([p.price for p in self.products])
        stock = self.demo.rng("stock").integers(8, 240, count)
        fixed = {
            i for i, p in enumerate(self.products) if p.draft or p.archived < NEVER or p.sold_out < NEVER
        }
        self.prices = np.zeros((self.until + 1, count))
        self.stocks = np.zeros((self.until + 1, count), np.int64)
        self.changed: dict[int, list[int]] = {}
        for number in range(self.until + 1):
            rng = self.demo.rng("prices", number)
            touched = {
                i for i, p in enumerate(self.products) if number in (p.created, p.archived, p.sold_out)
            }
            for i in rng.choice(count, int(rng.poisson(self.demo.products / 120)), replace=False):
                factor, fresh = rng.choice([0.92, 0.95, 1.05, 1.08]), int(rng.integers(8, 240))
                if number > 0 and int(i) not in fixed and self.products[i].created < number:
                    price[i] = _shelf_price(price[i] * factor)
                    stock[i] = fresh
                    touched.add(int(i))
            stock[[i for i, p in enumerate(self.products) if p.sold_out == number]] = 0
            self.prices[number], self.stocks[number] = price, stock
            self.changed[number] = sorted(touched)

    def _people(self, rng: np.random.Generator, count: int, arrived: int | None) -> Customers:
        """`count` customers; those of the history when `arrived` is None, else newcomers of that day."""
        demo, days = self.demo, self.demo.days
        chinese = rng.random(count) < CHINESE_SHARE
        first = np.where(chinese, rng.choice(CHINESE_PERSONAS, count), rng.choice(ENGLISH_PERSONAS, count))
        second = rng.integers(0, len(PERSONAS), count)
        taste, later = self._tastes(rng, first, second, chinese)
        turn = np.where(
            rng.random(count) < 0.6, rng.integers(round(days * 0.25), round(days * 0.9), count), NEVER
        )
        able = self.sellable(days) & self.consumable
        staples = np.argsort(-(np.log(later + 1e-12) + rng.gumbel(0, 0.7, taste.shape) - 50 * ~able), axis=1)[
            :, :4
        ]
        rate = rng.gamma(1.1, 1.0, count)
        period = np.where(rng.random(count) < 0.25, rng.choice([7, 10, 14, 21, 28], count), 0)
        signup = np.where(
            rng.random(count) < 0.75, -rng.integers(1, 700, count), rng.integers(0, days, count)
        )
        churn = np.where(
            rng.random(count) < 0.10, rng.integers(round(days * 0.35), round(days * 0.8), count), NEVER
        )
        cold = rng.random(count) < 0.12
        rate[cold], period[cold] = 0.0, 0
        churn[cold | (churn <= signup)] = NEVER
        # About 5.6 % of customers order on an average day; regulars make a part of that.
        rate *= 0.056 / 0.83
        lapsed = rng.random(count)
        first_day, _ = demo.experiment_days
        treated = rng.random(count) < 0.5
        exposed = np.where(
            (lapsed < 0.7) & (signup < first_day),
            first_day + rng.integers(0, max(1, days // 25), count),
            NEVER,
        )
        if arrived is not None:
            signup[:], churn[:], exposed[:] = arrived, NEVER, NEVER
        elif count > self.bot:
            rate[self.bot], period[self.bot], churn[self.bot], signup[self.bot] = 0.0, 0, NEVER, -40
            exposed[self.bot] = NEVER
        refuses = rng.random((count, 4)) < np.array([0.25, 0.08, 0.12, 0.0])
        names = [family_and_given_names(rng, bool(c)) for c in chinese]
        return Customers(
            locale=["zh" if c else "en" for c in chinese],
            country=[str(c) for c in rng.choice(["SG", "MY", "HK", "GB", "AU"], count, p=[0.76, 0.13, 0.05, 0.03, 0.03])],
            name=names, signup=signup, rate=rate, period=period, phase=rng.integers(0, 28, count), churn=churn,
            hour=rng.choice([8, 9, 12, 13, 18, 20, 21, 22], count), taste=taste, later_taste=later, turn=turn, staples=staples, treated=treated,
            exposed=exposed, refuses=refuses,
        )  # fmt: skip

    def tastes(self, number: int, who: Ints) -> Floats:
        """How much customers want each product on a day: a row a customer, each adding up to 1."""
        people = self.customers
        wants: Floats = np.where(
            (people.turn[who] <= number)[:, None], people.later_taste[who], people.taste[who]
        )
        return wants

    def _tastes(
        self, rng: np.random.Generator, first: Ints, second: Ints, chinese: Flags
    ) -> tuple[Floats, Floats]:
        """What customers want before and after they turn from their second interest to their first."""
        fixed = self.demo.rng("taste")  # the same for all customers, whenever they come
        leaves = {leaf.key: i for i, leaf in enumerate(LEAVES)}
        wants = np.full((len(PERSONAS), len(LEAVES)), 0.06)
        for row, weights in enumerate(PERSONAS.values()):
            for key, weight in weights.items():
                wants[row, leaves[key]] += weight
        wants[:, leaves["礼盒"]] += 0.8
        brands = {brand: i for i, brand in enumerate(BRANDS)}
        brand_of = np.array([brands[LEAVES[p.leaf].key, p.brand] for p in self.products])
        brand_mean = fixed.normal(0, 0.9, (len(PERSONAS), len(BRANDS)))
        product_side = fixed.normal(0, 1.0, (len(self.products), 5))
        persona_side = fixed.normal(0, 0.6, (len(PERSONAS), 5))
        popularity = fixed.normal(0, 0.7, len(self.products))
        popularity[[p for bundle in self.bundles for p in bundle]] += 0.8
        relative = np.zeros(len(self.products))
        logs = np.log([p.price for p in self.products])
        for leaf in range(len(LEAVES)):
            of_leaf = self.leaf_of == leaf
            relative[of_leaf] = (
                (logs[of_leaf] - logs[of_leaf].mean()) / (logs[of_leaf].std() + 0.1) if of_leaf.any() else 0
            )
        speaks = np.array([p.locale == "zh" for p in self.products])

        count = len(first)
        own = rng.gamma(2.0, 0.5, (count, len(LEAVES)))
        logit = np.tile(popularity, (count, 1))
        logit += (brand_mean[first] + rng.normal(0, 0.5, (count, len(BRANDS))))[:, brand_of]
        logit += 0.6 * rng.normal(0, 1, (count, 1)) * relative
        logit += (persona_side[first] + rng.normal(0, 0.45, (count, 5))) @ product_side.T
        logit += 1.3 * (chinese[:, None] == speaks)
        early, late = (
            np.exp(logit) * ((share * wants[first] + (1 - share) * wants[second]) * own)[:, self.leaf_of]
            for share in (0.15, 0.9)
        )
        return early / early.sum(axis=1, keepdims=True), late / late.sum(axis=1, keepdims=True)


def _joined(a: Customers, b: Customers) -> Customers:
    if not b.locale:
        return a
    values: dict[str, Any] = {
        name: list(x) + list(y) if isinstance(x, list) else np.concatenate([x, y])
        for name, x in vars(a).items()
        for y in [getattr(b, name)]
    }
    return Customers(**values)


def _shelf_price(price: float | np.floating[Any]) -> float:
    """A price as shops write it: to 50 cents, less 10."""
    return max(1.9, round(float(price) * 2) / 2 - 0.1)


def _products(demo: Demo) -> list[Product]:
    """`demo.products` products and the reserve, drawn leaf by leaf without repeating a title."""
    rng = demo.rng("catalogue")
    total = demo.products + RESERVE
    combos: dict[int, list[tuple[int, int, int, int]]] = {}
    for i, leaf in enumerate(LEAVES):
        every = [
            (b, n, v, s)
            for b in range(len(leaf.brands)) for n in range(len(leaf.nouns))
            for v in range(len(leaf.variants)) for s in range(len(leaf.sizes))
        ]  # fmt: skip
        combos[i] = [every[k] for k in rng.permutation(len(every))]
    english, chinese = list(range(len(ENGLISH))), list(range(len(ENGLISH), len(LEAVES)))
    products: list[Product] = []
    for turn in range(total):
        group = chinese if turn % 10 in (2, 5, 8) else english
        leaf_index = group[(turn * 7 + turn // 10) % len(group)]
        if not combos[leaf_index]:
            leaf_index = max(group, key=lambda k: len(combos[k]))
        products.append(_product(rng, leaf_index, combos[leaf_index].pop()))
    _plant(demo, rng, products)
    return products


def _product(rng: np.random.Generator, leaf_index: int, combo: tuple[int, int, int, int]) -> Product:
    leaf = LEAVES[leaf_index]
    brand, noun = leaf.brands[combo[0]], leaf.nouns[combo[1]]
    variant, about, sentence = leaf.variants[combo[2]]
    size, measure, factor = leaf.sizes[combo[3]]
    attributes = {**measure, **about}
    for attribute, options in leaf.facts.items():
        chosen = str(rng.choice(options))
        attributes.setdefault(attribute, chosen)
    words = {
        "brand": brand,
        "noun": noun,
        "size": size,
        "noun_l": noun if leaf.locale == "zh" else _lower(noun),
    }
    parts = [str(rng.choice(leaf.intros)).format(**words), sentence, str(rng.choice(leaf.features))]
    title = f"{brand} {variant}{noun} {size}" if leaf.locale == "zh" else f"{brand} {variant} {noun}, {size}"
    low, high = leaf.price
    price = _shelf_price(float(np.exp(rng.uniform(np.log(low), np.log(high)))) * factor)
    return Product(
        leaf=leaf_index, locale=leaf.locale, title=title, brand=brand, noun=noun,
        description=_with_articles(("" if leaf.locale == "zh" else " ").join(parts)), attributes=json.dumps(attributes, ensure_ascii=False),
        price=price, created=-int(rng.integers(1, 600)),
    )  # fmt: skip


def _with_articles(text: str) -> str:
    """`A exercise mat` as people write it."""
    return re.sub(r"\bA (?=[aeio]|8|1[18] )", "An ", text)


def _lower(noun: str) -> str:
    return " ".join(
        w if w.isupper() or any(c.isdigit() for c in w) or w.startswith("USB") else w.lower()
        for w in noun.split()
    )


def _plant(demo: Demo, rng: np.random.Generator, products: list[Product]) -> None:
    """Put in what tests look for: twins, banned claims, archived, draft, sold-out and brand-new products."""
    n, days = demo.products, demo.days
    order = [int(i) for i in rng.permutation(n)]
    take = iter(order)
    few = max(2, n // 60)
    for _ in range(max(2, n // 100)):
        source, b = next(take), next(take)
        a = products[source]
        title = (
            a.title.replace(" & ", " and ")
            if " & " in a.title
            else " ".join(reversed(a.title.rsplit(", ", 1)))
        )
        title = a.title.replace(" ", "") if a.locale == "zh" else title
        price, created = _shelf_price(a.price * 1.04), min(a.created + 1, -1)
        products[b] = Product(
            **{**vars(a), "title": title, "price": price, "created": created, "twin_of": source}
        )
    for locale, claims in BANNED_CLAIMS.items():
        for claim in claims[: max(2, n // 120)]:
            product = products[
                next(i for i in take if products[i].locale == locale and products[i].description)
            ]
            product.description = f"{product.description}{'' if locale == 'zh' else ' '}{claim[1]}"
            product.banned = claim[0]
    for _ in range(few):
        products[next(take)].draft = True
        products[next(take)].archived = int(rng.integers(round(days * 0.3), days - 4))
    for _ in range(few * 2):
        products[next(take)].sold_out = days - int(rng.integers(4, max(5, min(12, days // 4)) + 1))
    for _ in range(few):
        product = products[next(take)]
        product.created, product.sold_from = days - int(rng.integers(1, 4)), days
    for _ in range(max(1, n // 150)):
        products[next(take)].description = None
    for _ in range(few * 3):  # launched in the course of the history
        products[next(take)].created = int(rng.integers(3, max(4, days - 20)))
    for k, product in enumerate(products[n:]):
        product.created = days + 1 + 2 * k
