"""What may be said of a product, before anything is written: a sheet of facts, and what was taken out of it and why."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nightmarket.guard.claims import Kind, Verdict


@dataclass(frozen=True)
class Fact:
    """An attribute as the shop calls it, its value as the shop writes it, and its kind where that is known."""

    attribute: str
    value: str
    kind: Kind | None

    @property
    def label(self) -> str:
        return plain_label(self.attribute)


@dataclass(frozen=True)
class Removed:
    """Something of the product's own data that must not be said: of which attribute, what, why."""

    attribute: str
    value: str
    reason: str
    verdict: Verdict


@dataclass(frozen=True)
class Sheet:
    """All that may be said of a product in one language.

    Attributes:
        title: the shop's own, cleaned; empty when nothing of it may stand.
        name: the piece of the title that sentences use.
        details: other pieces of the title, in their order ("Black", "12 Count").
        brand, leaf: brand, and the last part of the category; or None.
        facts: attributes worth telling, the most telling first.
        removed: what was taken out.
        names: title and brand as the catalogue has them. Words that a policy leaves to names may stand inside these
            only: a piece of a title is no name.
        filed: the category as the catalogue has it; policies are chosen by it.
        certificates: those that the product's attributes say it carries, by the names that packs use.
    """

    product_id: str
    locale: str
    title: str
    name: str
    details: tuple[str, ...]
    brand: str | None
    category: str | None
    leaf: str | None
    facts: tuple[Fact, ...]
    removed: tuple[Removed, ...]
    names: tuple[str, ...] = ()
    filed: str | None = None
    certificates: frozenset[str] = frozenset()

    @property
    def evidence(self) -> dict[str, str]:
        """The facts as the guard reads them."""
        own = {"title": self.title, "name": self.name, "brand": self.brand, "category": self.category}
        return {key: value for key, value in own.items() if value} | {
            f.attribute: f.value for f in self.facts
        }

    @property
    def own(self) -> tuple[str, ...]:
        """What the catalogue says in its own words: names, pieces of the title, parts of the category, values."""
        told = [
            *self.names,
            self.title,
            self.name,
            *self.details,
            self.brand,
            *(self.category or "").split(" > "),
        ]
        return tuple(text for text in (*told, *(fact.value for fact in self.facts)) if text)


def plain_label(attribute: str) -> str:
    """How an attribute is called in a sentence: small letters, but acronyms stay."""
    opened = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", attribute)
    words = re.sub(r"\(s\)|[_\-/:]+", " ", opened).split()
    return " ".join(
        w if len(w) > 1 and w.isupper() and len(words) * len(w) < 16 else w.lower() for w in words
    )
