"""Why a product stands in a list, as a code, a sentence in the customer's language, and the purchases that caused it.

Because *you*: what the customer bought, as the model itself says it. Because *we*: a rule of the shop, an experiment, or
what sells. Sentences quote titles of products and nothing else. Not here: which cause a model names (ranking), and whether
causes may be shown at all (serving).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CODES = ("because_you_bought", "for_you", "because_we_promote", "because_we_explore", "popular")
BOUGHT, FOR_YOU, PROMOTED, EXPLORED, POPULAR = range(len(CODES))
LANGUAGES = ("en", "zh")
CAUSES = 3
"""Products of the history named as the cause of a recommendation, at most."""
TITLE_CHARACTERS = 80

_SENTENCES = {
    "en": ("Because you bought {title}", "Chosen for you from what you bought", "Because we feature it in our shop",
           "Because we try something new with you", "Popular with other customers"),
    "zh": ("因为您购买过{title}", "根据您的购买记录为您挑选", "我们推荐这款商品", "我们想向您介绍新品", "其他顾客也在购买"),
}  # fmt: skip


def told(
    languages: NDArray[np.int8], codes: NDArray[np.int8], causes: NDArray[np.int32], product_ids: Sequence[str],
    title: Callable[[str], str],
) -> tuple[pa.Array, pa.Array, pa.Array]:  # fmt: skip
    """`reason_code`, `reason_text` and `because_product_ids` (JSON) of each row.

    Args:
        languages: an index into LANGUAGES a row.
        codes: an index into CODES a row.
        causes: rows x CAUSES, codes of products, the strongest first, -1 for none; only those of BOUGHT are told.
        title: a product's title as a sentence can carry it, "" for none.
    """
    causes = np.where((codes == BOUGHT)[:, None], causes, -1)
    # The places of one list often have the same causes: a sentence is made once for all of them.
    key = np.column_stack([languages, codes, causes]).astype(np.int32)
    different, which = np.unique(key, axis=0, return_inverse=True)
    made = [
        sentence(LANGUAGES[row[0]], row[1], [product_ids[c] for c in row[2:] if c >= 0], title)
        for row in different.tolist()
    ]
    places = pa.array(which.reshape(-1))
    return (
        pa.array(CODES, pa.string()).take(pa.array(codes)),
        pa.array([text for text, _ in made], pa.string()).take(places),
        pa.array([because for _, because in made], pa.string()).take(places),
    )


def sentence(
    language: str, code: int, causes: Sequence[str], title: Callable[[str], str]
) -> tuple[str | None, str]:
    """The sentence of one place and its causes as JSON; it names the strongest cause with a title, or is left out."""
    form = _SENTENCES[language][code]
    if code != BOUGHT:
        return form, "[]"
    named = next((found for c in causes if (found := title(c))), None)
    return form.format(title=named) if named else None, json.dumps(list(causes))


def line(title: str | None) -> str:
    """A title as a sentence can carry it: one line, cut at a word; it is the shop's text and only ever quoted."""
    told = re.sub(r"\s+", " ", re.sub(r"[\x00-\x1f\x7f]", " ", title or "")).strip()
    if len(told) > TITLE_CHARACTERS:
        cut = told[: TITLE_CHARACTERS - 1]
        told = (cut.rsplit(" ", 1)[0] if " " in cut[40:] else cut).rstrip(" ,.;:-") + "…"
    return told
