"""Where lists are shown, and what is peculiar to each place: how long a list is, and how varied.

Not here: what a list holds (lists, similar, twin), and rules that the shop sets for a place (merchandising).
"""

from __future__ import annotations

from nightmarket.merchandising import Candidates
from nightmarket.products.recommendations import slots
from nightmarket.products.recommendations.shelf import Opened
from nightmarket.settings import Settings

HOME, EMAIL, PRODUCT_PAGE = "home", "email", "product_page"
EMAIL_LENGTH = 6
EMAIL_OF_A_CATEGORY = 2
"""A message shows few products and is read once: more than two of a category in it waste the others' places."""


def length(placement: str, settings: Settings) -> int:
    """How many products a list of a placement holds."""
    lengths = {
        HOME: settings.recommendations_per_customer, EMAIL: EMAIL_LENGTH, PRODUCT_PAGE: settings.similar_per_product,
    }  # fmt: skip
    return lengths[placement]


def varied(candidates: Candidates, placement: str, shelf: Opened) -> Candidates:
    """The candidates that a placement's own variety leaves: what rules and exploration choose from has it too."""
    if placement != EMAIL:
        return candidates
    return slots.at_most(candidates, shelf.categories, EMAIL_OF_A_CATEGORY)
