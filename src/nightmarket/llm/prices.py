"""What a writer's tokens cost.

Money is counted exactly (`Decimal`), so that a budget ends at the same call whatever the order of the sums. Not here: what is
done when a budget is spent (`endpoint`, `batch`, `products`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from nightmarket.settings import Settings


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens; without prices, as for weights on this machine, nothing costs anything.

    Attributes:
        price_in, price_out: of a million tokens that the writer reads, and that it writes.
        currency: the three letters of ISO 4217.
    """

    price_in: Decimal = Decimal(0)
    price_out: Decimal = Decimal(0)
    currency: str = "EUR"

    @property
    def are_none(self) -> bool:
        return not (self.price_in or self.price_out)

    def cost(self, tokens_in: int, tokens_out: int) -> Decimal:
        """What so many tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1_000_000

    def less(self, discount: Decimal) -> Prices:
        """The same prices without a share of them, such as the half that a batch API takes off."""
        kept = 1 - discount
        return replace(self, price_in=self.price_in * kept, price_out=self.price_out * kept)

    def told(self, cost: Decimal) -> str:
        """An amount for people; amounts that decide are never rounded."""
        return f"{cost:.4f} {self.currency}"


def prices_of(settings: Settings) -> Prices:
    """What a token of the endpoint costs, or of its batches where these are what is asked."""
    prices = Prices(settings.endpoint_price_in, settings.endpoint_price_out, settings.endpoint_currency)
    return prices.less(settings.endpoint_batch_discount) if settings.generator == "batch" else prices
