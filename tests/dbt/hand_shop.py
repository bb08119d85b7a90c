"""A small shop written by hand, with one customer for each rule that a night can stumble over."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

FIRST_NIGHT = date(2026, 3, 1)


def order(order_id: str, customer_id: str, at: str, **more: Any) -> dict[str, Any]:
    return {
        "order_id": order_id,
        "customer_id": customer_id,
        "ordered_at": datetime.fromisoformat(at),
        **more,
    }


def line(order_id: str, product_id: str, *, line: int = 1, quantity: int = 1, **more: Any) -> dict[str, Any]:
    return {"order_id": order_id, "line": line, "product_id": product_id, "quantity": quantity, **more}


def event(
    event_id: str, customer_id: str, kind: str, at: str, product_id: str | None = None
) -> dict[str, Any]:
    return {"event_id": event_id, "customer_id": customer_id, "event_type": kind,
            "occurred_at": datetime.fromisoformat(at), "product_id": product_id}  # fmt: skip


def consent(customer_id: str, purpose: str, state: str, at: str) -> dict[str, Any]:
    return {"customer_id": customer_id, "purpose": purpose, "state": state,
            "effective_at": datetime.fromisoformat(at)}  # fmt: skip


def review(review_id: str, customer_id: str | None, product_id: str, at: str) -> dict[str, Any]:
    return {"review_id": review_id, "customer_id": customer_id, "product_id": product_id, "body": "Fine.",
            "created_at": datetime.fromisoformat(at)}  # fmt: skip


def first_night() -> dict[str, list[dict[str, Any]]]:
    """What the first load brings. Some of it happens later than the first night's day."""
    return {
        "products": [
            {"product_id": "kettle", "title": "Kettle", "brand": "Brook", "category": "Kitchen > Coffee", "price": 49},
            {"product_id": "mug", "title": "Mug", "brand": "Alder", "category": "Kitchen>Coffee", "price": 8},
            {"product_id": "tent", "title": "Tent", "brand": "Brook", "category": "Outdoor > Camping", "price": 129},
            {"product_id": "gift", "title": "Gift card", "price": None},
        ],
        "customers": [
            {"customer_id": c, "created_at": datetime(2025, 6, 1), "locale": "en", "country": "GB",
             "email": f"{c}@example.com", "name": f"Name of {c}", "phone": "0123", "attributes": "{}"}
            for c in ("ann", "bob", "cleo", "dan", "eve", "quiet")
        ],
        "orders": [
            order("a1", "ann", "2026-01-10T09:15:00", status="placed", channel="web"),
            order("a2", "ann", "2026-02-10T09:45:00"),
            order("a3", "ann", "2026-03-01T23:30:00"),  # known from the night of the 2nd on
            order("b1", "bob", "2026-02-01T20:00:00"),
            order("c1", "cleo", "2026-02-02T21:00:00", discount=5),
            order("d1", "dan", "2026-02-03T11:00:00"),
            order("e1", "eve", "2026-02-04T12:00:00"),
            order("g1", "guest", "2026-02-05T12:00:00"),
            *[order(f"s{n}", "script", f"2026-02-10T{n // 3:02d}:{n % 3}0:00") for n in range(49)],
        ],
        "order_items": [
            line("a1", "kettle", unit_price=49), line("a1", "mug", line=2, quantity=4, unit_price=8),
            line("a2", "mug", quantity=2, unit_price=8, discount=1),
            line("a3", "tent", unit_price=129),
            line("b1", "tent", unit_price=129), line("b1", "gift", line=2),
            line("c1", "kettle", unit_price=49), line("c1", "mug", line=2, unit_price=8),
            line("d1", "mug", unit_price=8), line("e1", "kettle", unit_price=49), line("g1", "gift"),
            *[line(f"s{n}", "mug", unit_price=8) for n in range(49)],
        ],
        "events": [
            event("v1", "quiet", "product_viewed", "2026-02-20T10:00:00", "tent"),
            event("v2", "bob", "product_viewed", "2026-02-21T10:00:00", "mug"),
            event("m1", "ann", "message_opened", "2026-02-21T18:30:00"),
            event("m2", "ann", "message_opened", "2026-02-22T18:30:00"),
            event("v3", "visitor", "product_viewed", "2026-02-22T18:30:00", "mug"),
        ],
        "reviews": [review("r1", "dan", "mug", "2026-02-15T10:00:00"), review("r2", None, "mug", "2026-02-15T10:00:00")],
        "consents": [
            consent("eve", "profiling", "refused", "2026-01-01T00:00:00"),
            consent("bob", "training", "granted", "2026-01-01T00:00:00"),
        ],
    }  # fmt: skip
