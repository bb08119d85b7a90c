"""What the shop wants shown: its rules, a share of slots that explores, and how likely each slot's content was.

Rankers and fallbacks propose candidates; a `RuleBook` of the day arranges them into slots and says for each slot what the
model said, which rules touched it, and its propensity under the serving policy. Not here: what candidates are (ranking),
which lists are made and published (products), where rules land (landing) and become a mart (dbt).
"""

from nightmarket.merchandising.book import RuleBook
from nightmarket.merchandising.slots import Candidates, Slots

__all__ = ["Candidates", "RuleBook", "Slots"]
