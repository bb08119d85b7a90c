"""What people of the demo shop write on a day: reviews, tickets with their messages, and the shop's help articles.

Reviews and tickets follow from the orders of earlier days. Not here: the words (demo_voices) and the orders (demo_days).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nightmarket.shops.demo_voices import (
    ARTICLES,
    BOT_GREETING,
    CLOSING,
    INJECTED_REPLY,
    INJECTIONS,
    TICKET_INJECTION,
    TICKETS,
    personal,
    review,
)  # fmt: skip  # isort: skip
from nightmarket.shops.demo_world import LEAVES

if TYPE_CHECKING:
    from nightmarket.shops.demo_days import Days

Row = dict[str, Any]
REVIEW_LAGS, TICKET_LAGS = (4, 20), (1, 9)  # first and last day after the order
LONGEST_TICKET = 3  # days until a ticket is closed
INJECTED_REVIEWS = {"en": 0.5, "zh": 0.9}  # the share of the history after which each comes
INJECTED_TICKET = 0.7
REVIEW_RATE, TICKET_RATE = 0.06, 0.035


def articles_of(days: Days, number: int) -> list[Row]:
    """All help articles on day 0; a new version of one every six weeks."""
    month = days.demo.date_of(number)
    rows = []
    for locale, articles in ARTICLES.items():
        for k, (key, title, body) in enumerate(articles):
            if number == 0 or (number % 42 == 0 and number // 42 % len(articles) == k):
                edition = f" (Updated {month:%B %Y}.)" if locale == "en" else f"（{month:%Y年%m月}更新）"
                rows.append({
                    "article_id": f"{key}-{locale}", "title": title, "body": body + (edition if number else ""),
                    "locale": locale, "updated_at": days.micros(number, 32_400),
                })  # fmt: skip
    return rows


def reviews_of(days: Days, number: int) -> list[Row]:
    """Reviews that come in on a day, of orders of the three weeks before."""
    world, rows = days.world, []
    for day in days.earlier(number, REVIEW_LAGS):
        sales, rng = days.sales(day), days.demo.rng("reviews", day)
        count = len(sales.order)
        lag = rng.integers(REVIEW_LAGS[0], REVIEW_LAGS[1] + 1, count)
        writes = (rng.random(count) < REVIEW_RATE) & (sales.customer[sales.order] != world.bot)
        for at in np.nonzero(writes & (lag == number - day))[0]:
            own = np.random.default_rng([days.demo.seed, 5, day + 1, int(at)])
            product, buyer = int(sales.product[at]), int(sales.customer[sales.order[at]])
            p = world.products[product]
            leaf = LEAVES[p.leaf]
            liked = own.random() < 0.62 + 0.25 * np.sin(product * 1.7)
            rating = int(own.choice([5, 4, 5] if liked else [1, 2, 3, 3, 4]))
            title, body = review(own, p.locale, p.noun, rating, leaf.praise, leaf.complaints)
            if own.random() < 0.02:
                body += ("" if p.locale == "zh" else " ") + personal(
                    own, p.locale, days.mail(buyer), days.phone_or_other(buyer)
                )
            rows.append({
                "review_id": f"R{days.demo.date_of(day):%y%m%d}-{int(at) + 1:04d}",
                "customer_id": None if own.random() < 0.08 else world.customer_id(buyer),
                "product_id": world.product_id(product), "rating": rating, "title": title, "body": body,
                "locale": p.locale, "created_at": days.micros(number, own.integers(25_000, 86_000)),
            })  # fmt: skip
    rows.sort(key=lambda row: (row["created_at"], row["review_id"]))
    return rows + [
        _injected(days, number, locale)
        for locale, share in INJECTED_REVIEWS.items()
        if number == round(days.demo.days * share)
    ]


def tickets_of(days: Days, number: int) -> tuple[list[Row], list[Row]]:
    """Tickets that are opened on a day, and those of the days before that are closed on it (the same row again)."""
    tickets: dict[str, Row] = {}
    messages: list[Row] = []
    for opened in range(max(0, number - LONGEST_TICKET), number + 1):
        for row, lag, intent in days.tickets_opened(opened):
            own = np.random.default_rng([days.demo.seed, 6, opened + 1, int(row["ticket_id"][-3:])])
            asked, locale = row["opened_at"], row["locale"]
            closed_at = asked + (lag * 86_400 + 2_400) * 1_000_000
            if opened == number:
                tickets[row["ticket_id"]] = row
                messages.append(_message(row, 1, "customer", row["body"], asked))
                messages.append(_message(row, 2, "bot", BOT_GREETING[locale], asked + 5_000_000))
            if opened + lag == number:
                reply = INJECTED_REPLY if intent == "injected" else TICKETS[locale][intent][2]
                ask, thanks = CLOSING[locale]
                messages.append(_message(row, 3, "agent", f"{reply}\n\n{ask}", closed_at - 1_200_000_000))
                happy = own.random() < 0.7
                if happy:
                    messages.append(_message(row, 4, "customer", thanks, closed_at - 600_000_000))
                score = None if own.random() < 0.4 else int(own.choice([4, 5, 5] if happy else [1, 2, 3]))
                tickets[row["ticket_id"]] = {**row, "closed_at": closed_at, "satisfaction": score}
    return list(tickets.values()), sorted(messages, key=lambda m: (m["sent_at"], m["message_id"]))


def opened_on(days: Days, number: int) -> list[tuple[Row, int, str]]:
    """(ticket, days until it is closed, intent) of every ticket that is opened on a day."""
    found: list[tuple[Row, int, str]] = []
    for day in days.earlier(number, TICKET_LAGS):
        sales, rng = days.sales(day), days.demo.rng("tickets", day)
        count = len(sales.customer)
        lag = rng.integers(TICKET_LAGS[0], TICKET_LAGS[1] + 1, count)
        writes = (rng.random(count) < TICKET_RATE) & (sales.customer != days.world.bot)
        for at in np.nonzero(writes & (lag == number - day))[0]:
            found.append(_ticket(days, number, len(found), day, int(at)))
    if found and number == round(days.demo.days * INJECTED_TICKET):
        row, lasts, _ = found[0]
        found[0] = ({**row, "body": TICKET_INJECTION, "subject": "Order", "locale": "en"}, lasts, "injected")
    return found


def _injected(days: Days, number: int, locale: str) -> Row:
    world = days.world
    products = [
        i for i, p in enumerate(world.products) if p.locale == locale and p.created < 0 and not p.draft
    ]
    return {
        "review_id": f"R{days.demo.date_of(number):%y%m%d}-9001", "customer_id": world.customer_id(3 if locale == "en" else 4),
        "product_id": world.product_id(products[5 % len(products)]), "rating": 5,
        "title": "Great" if locale == "en" else "好", "body": INJECTIONS[locale], "locale": locale,
        "created_at": days.micros(number, 72_000),
    }  # fmt: skip


def _ticket(days: Days, number: int, index: int, day: int, at: int) -> tuple[Row, int, str]:
    """A ticket about order `at` of `day`, opened on day `number`."""
    world, sales = days.world, days.sales(day)
    own = np.random.default_rng([days.demo.seed, 8, number + 1, index])
    buyer = int(sales.customer[at])
    locale = world.customers.locale[buyer]
    product = int(sales.product[int(np.searchsorted(sales.order, at))])
    intent = str(own.choice(list(TICKETS[locale])))
    subject, bodies, _ = TICKETS[locale][intent]
    order_id, title = days.order_id(day, at), world.products[product].title
    words = {"order": order_id, "title": title, "date": days.demo.date_of(day).isoformat()}
    body = str(own.choice(bodies)).format(**words)
    if own.random() < 0.06:
        body += "\n\n" + personal(own, locale, days.mail(buyer), days.phone_or_other(buyer))
    row = {
        "ticket_id": f"T{days.demo.date_of(number):%y%m%d}-{index + 1:03d}", "customer_id": world.customer_id(buyer),
        "channel": str(own.choice(["email", "chat", "form"])), "subject": subject.format(**words), "body": body,
        "order_id": order_id, "product_id": world.product_id(product), "locale": locale,
        "opened_at": days.micros(number, own.integers(28_000, 82_000)), "closed_at": None, "satisfaction": None,
    }  # fmt: skip
    return row, int(own.choice([0, 0, 1, 1, 2, LONGEST_TICKET])), intent


def _message(ticket: Row, number: int, author: str, body: str, at: int) -> Row:
    return {
        "message_id": f"{ticket['ticket_id']}-{number}", "ticket_id": ticket["ticket_id"], "author": author, "body": body,
        "sent_at": at,
    }  # fmt: skip
