"""How many new product texts may be turned into vectors in a night: most bought first, the rest is carried over.

Embedding takes some 5 ms a text: a catalogue of a million products must not stop the night it arrives in. Not here: what
vectors are used for, and where they are kept (encoder).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def within_budget(
    missing: NDArray[np.bool_], buyers: NDArray[np.integer] | NDArray[np.floating], budget: int
) -> NDArray[np.bool_]:
    """Which texts have a vector tonight: those that had one, and the `budget` most bought of those that are `missing`.

    Of products bought as often the first come first.
    """
    waiting = np.flatnonzero(missing)
    chosen = waiting[np.lexsort((waiting, -buyers[waiting]))[:budget]]
    has = ~missing
    has[chosen] = True
    return has
