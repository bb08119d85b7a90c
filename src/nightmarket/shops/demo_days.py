"""What happens in the demo shop on one day, as rows of the landing tables.

A day is made from the seed and its own number alone: orders by each customer's rate and taste, and what follows from the
orders of earlier days (refunds, reviews, tickets). Not here: who and what there is (demo_world), files (demo).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nightmarket.contracts import LANDING
from nightmarket.shops.demo_talk import articles_of, opened_on, reviews_of, tickets_of
from nightmarket.shops.demo_voices import SEARCHES
from nightmarket.shops.demo_world import (
    BUNDLE_RATE,
    EXPERIMENT,
    LEAVES,
    LIFT,
    SALES,
    Flags,
    Floats,
    Ints,
    World,
)  # fmt: skip  # isort: skip

Row = dict[str, Any]
Rows = dict[str, list[Row]]
ZONE_SECONDS = 8 * 3600  # Asia/Singapore, without summer time
DAY_SECONDS = 86_400
BROKEN_SHARE = 0.06
REFUND_LAGS = (3, 25)  # first and last day after the order
PURPOSES = ("marketing", "profiling", "training", "service")


@dataclass(frozen=True)
class Sales:
    """The orders of a day as columns; the second half is a row a line, `order` pointing into the first."""

    customer: Ints
    second: Ints
    cancelled: Flags
    channel: Ints
    discount: Floats
    order: Ints
    product: Ints
    quantity: Ints
    price: Floats
    line_discount: Floats


class Days:
    """The days of a world, each made when it is asked for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.demo = world.demo
        self.sales = lru_cache(maxsize=None)(self._sales)
        self.refunds = lru_cache(maxsize=None)(self._refunds_of)
        self.tickets_opened = lru_cache(maxsize=None)(lambda number: opened_on(self, number))

    def rows(self, number: int, tables: Collection[str] = tuple(LANDING)) -> Rows:
        """What arrives on a day, by table, in the order in which it happened; of some tables only, when asked."""
        makers: dict[tuple[str, ...], Callable[[], tuple[list[Row], ...]]] = {
            ("products",): lambda: (self._products(number),),
            ("customers",): lambda: (self._customers(number),),
            ("orders", "order_items"): lambda: self._orders(number),
            ("events",): lambda: (self._events(number),),
            ("reviews",): lambda: (reviews_of(self, number),),
            ("tickets", "ticket_messages"): lambda: tickets_of(self, number),
            ("articles",): lambda: (articles_of(self, number),),
            ("consents",): lambda: (self._consents(number),),
            ("experiments",): lambda: (self._exposures(number),),
            ("privacy_requests",): lambda: (self._requests(number),),
        }
        return {
            name: rows
            for names, make in makers.items()
            if any(name in tables for name in names)
            for name, rows in zip(names, make(), strict=True)
            if name in tables
        }

    def micros(self, number: int, second: int | np.integer[Any]) -> int:
        """A second of a local day as microseconds since 1970 in UTC."""
        ordinal = self.demo.start.toordinal() + number - 719_163  # 1970-01-01
        return (ordinal * DAY_SECONDS + int(second) - ZONE_SECONDS) * 1_000_000

    def order_id(self, number: int, index: int) -> str:
        return f"N{self.demo.date_of(number):%y%m%d}-{index + 1:04d}"

    def _sales(self, number: int) -> Sales:
        """Who orders what on a day. The bot comes last."""
        world, demo, people = self.world, self.demo, self.world.customers
        rng = demo.rng("orders", number)
        n = world.counts[number]
        chance = people.rate[:n] * world.calendar(number)
        regular = people.period[:n] > 0
        due = (number - people.phase[:n]) % np.maximum(people.period[:n], 1) == 0
        chance = np.where(regular, np.where(due, 0.8, 0.006), chance)
        first, last = demo.experiment_days
        works = people.treated[:n] & (people.exposed[:n] <= number) & (first <= number <= last)
        chance = np.where(works, chance * (1 + LIFT), chance)
        chance[(people.signup[:n] > number) | (people.churn[:n] <= number)] = 0.0
        buyers = np.nonzero(rng.random(n) < chance)[0]
        if number == demo.broken_day:
            buyers = buyers[: max(1, round(len(buyers) * BROKEN_SHARE))]
        count = len(buyers)
        second = _seconds(rng, people.hour[buyers])
        by_time = np.argsort(second, kind="stable")
        buyers, second = buyers[by_time], second[by_time]
        sellable = world.sellable(number)
        month = demo.date_of(number).month
        wanted = world.tastes(number, buyers) * world.season(number) * sellable
        # Things that last are wanted in one month of four: nobody buys a wok a week.
        rest = (buyers[:, None] * 7 + np.arange(len(sellable)) * 13) % 4 != month % 4
        wanted = np.where(rest & ~world.consumable, wanted * 0.12, wanted)
        reach = np.cumsum(wanted, axis=1)
        lines = 1 + np.minimum(rng.poisson(2.6, count), 5)
        draws, habits = rng.random((count, 6)), rng.random((count, 6))
        staple = people.staples[buyers][:, rng.permutation(4)]
        bundled = rng.random((count, 6))
        order, product = [], []
        for i in range(count):
            basket: list[int] = []
            for k in range(int(lines[i])):
                pick = int(staple[i, k % 4])
                if habits[i, k] > 0.3 or not sellable[pick]:
                    pick = int(np.searchsorted(reach[i], draws[i, k] * reach[i, -1], side="right"))
                basket.append(pick)
                if bundled[i, k] < BUNDLE_RATE:
                    basket += world.partners.get(pick, ())
            basket = list(dict.fromkeys(basket))
            order += [i] * len(basket)
            product += basket
        orders, products = np.array(order, np.int64), np.array(product, np.int64)
        size = len(products)
        more = rng.random(size)
        quantity = 1 + np.where(world.consumable[products], (more < 0.25).astype(int) + (more < 0.06), 0)
        price = world.prices[number][products]
        line_discount = np.round(price * quantity * world.promoted(number)[products], 2)
        total = np.bincount(orders, price * quantity - line_discount, minlength=count)
        voucher = np.where((rng.random(count) < 0.08) & (total > 40), rng.choice([3.0, 5.0], count), 0.0)
        if (demo.date_of(number).month, demo.date_of(number).day) in SALES:
            voucher = np.where(total > 40, np.maximum(voucher, 6.0), voucher)
        sales = Sales(
            customer=buyers, second=second, cancelled=rng.random(count) < 0.015, channel=(buyers * 31 % 10 < 4).astype(int),
            discount=voucher, order=orders, product=products, quantity=quantity, price=price, line_discount=line_discount,
        )  # fmt: skip
        return self._with_bot(number, sales) if number in demo.bot_days else sales

    def _with_bot(self, number: int, sales: Sales) -> Sales:
        """A program orders one thing at a time, every few seconds, through the night."""
        rng = self.demo.rng("bot", number)
        count = int(rng.integers(260, 420))
        targets = np.nonzero(self.world.sellable(number))[0][:5]
        product = rng.choice(targets, count)
        nil = np.zeros(count)
        return Sales(
            customer=np.concatenate([sales.customer, np.full(count, self.world.bot)]),
            second=np.concatenate([sales.second, 7_200 + np.cumsum(rng.integers(3, 12, count))]),
            cancelled=np.concatenate([sales.cancelled, nil.astype(bool)]),
            channel=np.concatenate([sales.channel, nil.astype(int)]),
            discount=np.concatenate([sales.discount, nil]),
            order=np.concatenate([sales.order, len(sales.customer) + np.arange(count)]),
            product=np.concatenate([sales.product, product]),
            quantity=np.concatenate([sales.quantity, np.ones(count, np.int64)]),
            price=np.concatenate([sales.price, self.world.prices[number][product]]),
            line_discount=np.concatenate([sales.line_discount, nil]),
        )

    def _refunds_of(self, number: int) -> list[tuple[int, int, bool]]:
        """(days later, order's index, whole order or not) of a day's orders that come back."""
        rng, sales = self.demo.rng("refunds", number), self.sales(number)
        count = len(sales.customer)
        back, lag = rng.random(count) < 0.045, rng.integers(REFUND_LAGS[0], REFUND_LAGS[1] + 1, count)
        whole = rng.random(count) < 0.6
        back &= ~sales.cancelled & (sales.customer != self.world.bot)
        return [(int(lag[i]), int(i), bool(whole[i])) for i in np.nonzero(back)[0]]

    def earlier(self, number: int, lags: tuple[int, int]) -> Iterator[int]:
        """The days from which something may arrive on a day."""
        yield from range(max(0, number - lags[1]), max(0, number - lags[0] + 1))

    def _orders(self, number: int) -> tuple[list[Row], list[Row]]:
        """The day's own orders, the last ones of the day before once more, and refunds of earlier orders."""
        orders: list[Row] = []
        items: list[Row] = []
        if number > 0:
            before = len(self.sales(number - 1).customer)
            for index in range(max(0, before - 3), before):
                self._put(orders, items, number - 1, index, None)
        for index in range(len(self.sales(number).customer)):
            self._put(orders, items, number, index, None)
        for day in self.earlier(number, REFUND_LAGS):
            for lag, index, whole in self.refunds(day):
                if day + lag == number:
                    self._put(orders, items, day, index, whole)
        return orders, items

    def _put(self, orders: list[Row], items: list[Row], day: int, index: int, refund: bool | None) -> None:
        """One order with its lines; `refund`: None not refunded, True all of it, False its first line."""
        sales = self.sales(day)
        order_id = self.order_id(day, index)
        status = "refunded" if refund else "cancelled" if sales.cancelled[index] else "placed"
        orders.append({
            "order_id": order_id, "customer_id": self.world.customer_id(sales.customer[index]),
            "ordered_at": self.micros(day, sales.second[index]), "status": status,
            "channel": ("web", "app")[sales.channel[index]], "discount": float(sales.discount[index]),
        })  # fmt: skip
        first = int(np.searchsorted(sales.order, index))
        line = 0
        while first + line < len(sales.order) and sales.order[first + line] == index:
            at = first + line
            quantity = int(sales.quantity[at])
            back = quantity if refund or (refund is False and line == 0) else 0
            line += 1
            items.append({
                "order_id": order_id, "line": line, "product_id": self.world.product_id(sales.product[at]),
                "quantity": quantity, "unit_price": float(sales.price[at]), "discount": float(sales.line_discount[at]),
                "refunded_quantity": back,
            })  # fmt: skip

    def _products(self, number: int) -> list[Row]:
        """Products that are new or changed on a day; on day 0 all that were there before."""
        world = self.world
        first = [i for i, p in enumerate(world.products) if p.created < 0] if number == 0 else []
        rows = []
        for i in sorted({*first, *world.changed[number]}):
            p = world.products[i]
            if p.created > number:
                continue
            status = "draft" if p.draft else "archived" if p.archived <= number else "active"
            rows.append({
                "product_id": world.product_id(i), "title": p.title, "description": p.description, "brand": p.brand,
                "category": LEAVES[p.leaf].path, "price": float(world.prices[number][i]), "attributes": p.attributes,
                "stock": int(world.stocks[number][i]), "status": status, "locale": p.locale,
                "created_at": self.micros(p.created, 36_000), "updated_at": self.micros(number, 10_800 + i),
            })  # fmt: skip
        return rows

    def _customers(self, number: int) -> list[Row]:
        return [
            {
                "customer_id": self.world.customer_id(i), "created_at": self._signed_up(i), "locale": people.locale[i],
                "country": people.country[i], "email": self.mail(i), "name": people.name[i], "phone": self._phone(i),
                "attributes": json.dumps({"newsletter": not bool(people.refuses[i, 0])}),
            }
            for people in [self.world.customers]
            for i in self._arrivals(number)
        ]  # fmt: skip

    def _arrivals(self, number: int) -> list[int]:
        signup = self.world.customers.signup
        return [int(i) for i in np.nonzero(signup <= 0 if number == 0 else signup == number)[0]]

    def _signed_up(self, i: int) -> int:
        # Before the shop opens its day: no order of a customer is older than the account.
        return self.micros(int(self.world.customers.signup[i]), 1_800 + i * 37 % 16_000)

    def mail(self, i: int) -> str:
        """A customer's e-mail address."""
        return f"shopper{i + 1:05d}@example.{('com', 'net', 'org')[i % 3]}"

    def _phone(self, i: int) -> str | None:
        if i % 5 < 2:
            return None
        if self.world.customers.country[i] == "GB":
            return f"+44 7700 900{i % 1000:03d}"
        return f"+65 5{i % 1000:03d} {(i * 7919) % 10_000:04d}"

    def phone_or_other(self, i: int) -> str:
        """A customer's number, or one that nobody has."""
        return self._phone(i) or "+65 5550 1234"

    def _consents(self, number: int) -> list[Row]:
        """Choices at sign-up, and changes of mind later."""
        people, rows = self.world.customers, []
        for i in self._arrivals(number):
            for k, purpose in enumerate(PURPOSES):
                state = "refused" if people.refuses[i, k] else "granted"
                rows.append(self._consent(i, purpose, state, self._signed_up(i), "sign-up form"))
        rng = self.demo.rng("consents", number)
        here = np.nonzero(people.signup[: self.world.counts[number]] < number)[0]
        if len(here):
            for i in rng.choice(here, int(rng.poisson(0.6)), replace=False):
                purpose = PURPOSES[int(rng.integers(3))]
                state = "refused" if rng.random() < 0.7 else "granted"
                rows.append(
                    self._consent(
                        int(i),
                        purpose,
                        state,
                        self.micros(number, rng.integers(30_000, 80_000)),
                        "account page",
                    )
                )
        return rows

    def _consent(self, i: int, purpose: str, state: str, at: int, source: str) -> Row:
        return {
            "customer_id": self.world.customer_id(i),
            "purpose": purpose,
            "state": state,
            "effective_at": at,
            "source": source,
        }

    def _exposures(self, number: int) -> list[Row]:
        people = self.world.customers
        return [
            {"experiment_id": EXPERIMENT, "customer_id": self.world.customer_id(int(i)),
             "variant": "treatment" if people.treated[i] else "control", "exposed_at": self.micros(number, 1_200 + int(i) % 9_000)}
            for i in np.nonzero(people.exposed == number)[0]
        ]  # fmt: skip

    def _requests(self, number: int) -> list[Row]:
        rng = self.demo.rng("privacy", number)
        here = np.nonzero(self.world.customers.signup[: self.world.counts[number]] < number)[0]
        here = here[here != self.world.bot]
        chosen = rng.choice(
            here, min(len(here), int(rng.poisson(self.demo.customers / 25_000))), replace=False
        )
        return [
            {"request_id": f"PR{self.demo.date_of(number):%y%m%d}-{k + 1}", "customer_id": self.world.customer_id(int(i)),
             "kind": "erase" if rng.random() < 0.6 else "access", "requested_at": self.micros(number, rng.integers(30_000, 80_000))}
            for k, i in enumerate(chosen)
        ]  # fmt: skip

    def _events(self, number: int) -> list[Row]:
        """Visits of those who buy and of a few who only look, and the weekly letter."""
        world, demo, people = self.world, self.demo, self.world.customers
        rng, sales = demo.rng("events", number), self.sales(number)
        human = sales.customer != world.bot
        bought: dict[int, list[int]] = {}
        for order, product in zip(sales.order, sales.product, strict=True):
            if human[order]:
                bought.setdefault(int(order), []).append(int(product))
        visits = [
            (int(sales.customer[o]), int(sales.second[o]) - 900, products) for o, products in bought.items()
        ]
        n = world.counts[number]
        here = np.nonzero(
            (people.signup[:n] <= number) & (people.churn[:n] > number) & (people.rate[:n] > 0)
        )[0]
        lookers = (
            rng.choice(here, min(len(here), int(rng.poisson(demo.customers * 0.006))), replace=False)
            if len(here)
            else here
        )
        visits += [
            (int(i), int(s), []) for i, s in zip(lookers, _seconds(rng, people.hour[lookers]), strict=True)
        ]
        reach = np.cumsum(
            world.tastes(number, np.array([v[0] for v in visits], np.int64)) * world.sellable(number), axis=1
        )
        popular = np.nonzero(world.sellable(number))[0][:40]
        day = f"{demo.date_of(number):%y%m%d}"
        rows: list[tuple[int, str, str, int | None, Row | None, str | None]] = []
        for k, (who, second, products) in enumerate(visits):
            session = f"S{day}-{k + 1:04d}"
            draws = rng.random(int(rng.integers(1, 5)))
            seen = [int(np.searchsorted(reach[k], u * reach[k, -1], side="right")) for u in draws]
            second = max(30, second)
            if rng.random() < 0.25:
                query = str(rng.choice(SEARCHES[people.locale[who]]))
                rows.append(
                    (second, world.customer_id(who), "search_performed", None, {"query": query}, session)
                )
            for product in [*seen, *products]:
                second += int(rng.integers(15, 60))
                rows.append((second, world.customer_id(who), "product_viewed", product, None, session))
            if rng.random() < 0.5:
                shown = int(rng.choice(popular))
                place = {"placement": "product_page", "rank": int(rng.integers(1, 5))}
                rows.append(
                    (second + 1, world.customer_id(who), "recommendation_shown", shown, place, session)
                )
                if rng.random() < 0.07:
                    rows.append(
                        (second + 9, world.customer_id(who), "recommendation_clicked", shown, place, session)
                    )
            for product in products or (seen[-1:] if rng.random() < 0.3 else []):
                rows.append(
                    (second + 20, world.customer_id(who), "cart_updated", product, {"quantity": 1}, session)
                )
            if products:
                rows.append((second + 40, world.customer_id(who), "checkout_started", None, None, session))
        if demo.date_of(number).weekday() == 3:
            rows += self._letter(number, here, rng)
        rows.sort(key=lambda row: row[0])
        # What is the same for all events of a day is written once.
        midnight = self.micros(number, 0)
        different = {id(told): told for *_, told, _ in rows if told is not None}
        properties = {key: json.dumps(told, ensure_ascii=False) for key, told in different.items()}
        return [
            {
                "event_id": f"E{day}-{k + 1:05d}", "customer_id": who, "session_id": session,
                "event_type": kind, "product_id": None if product is None else world.product_id(product),
                "occurred_at": midnight + min(second, DAY_SECONDS - 1) * 1_000_000,
                "properties": properties.get(id(told)),
            }
            for k, (second, who, kind, product, told, session) in enumerate(rows)
        ]  # fmt: skip

    def _letter(self, number: int, here: Ints, rng: np.random.Generator) -> list[Any]:
        """Thursday's letter to those who said yes to marketing; opened at their own hour, clicked by a few."""
        people = self.world.customers
        readers = here[~people.refuses[here, 0]]
        told = {"campaign": f"letter-{self.demo.date_of(number):%G-W%V}", "channel": "email"}
        rows: list[Any] = [
            (27_000 + k % 600, self.world.customer_id(int(i)), "message_sent", None, told, None)
            for k, i in enumerate(readers)
        ]
        opened = readers[rng.random(len(readers)) < 0.12]
        for i, second in zip(opened, np.maximum(_seconds(rng, people.hour[opened]), 27_700), strict=True):
            rows.append((int(second), self.world.customer_id(int(i)), "message_opened", None, told, None))
            if rng.random() < 0.15:
                rows.append(
                    (int(second) + 30, self.world.customer_id(int(i)), "message_clicked", None, told, None)
                )
        return rows


def _seconds(rng: np.random.Generator, hours: Ints) -> Ints:
    """Seconds of the day near each one's usual hour, never in the first or the last minutes of a day."""
    far = rng.random(len(hours)) < 0.25
    hour = np.where(far, rng.integers(7, 24, len(hours)), hours)
    second: Ints = np.clip(
        hour * 3_600 + rng.normal(1_800, 1_500, len(hours)), 1_000, DAY_SECONDS - 600
    ).astype(np.int64)
    return second
