"""Why a text was written anew: what is another today than when the copy before it was written, by name.

Not here: which texts are due (`due`), and causes that people gave (`reviews`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from nightmarket import products
from nightmarket.products.product_copy.due import Page
from nightmarket.products.product_copy.reviews import RETIRED, Key, key_of
from nightmarket.products.product_copy.text import Text
from nightmarket.settings import get_settings


def told_before(day: date) -> dict[Key, dict[str, str]]:
    """What the live copy says of each attribute, by text."""
    told: dict[Key, dict[str, str]] = {}
    versions: dict[Key, int] = {}
    columns = ("attribute", "value", "verdict")
    for row in products.previous("copy_claims", day, columns).to_pylist():
        if versions.get(key_of(row)) != row["version"]:  # of two texts the one that waits is the later
            versions[key_of(row)], told[key_of(row)] = row["version"], {}
        if row["attribute"] and row["verdict"] == "supported":
            told[key_of(row)][row["attribute"]] = row["value"]
    return told


def changed(old: Mapping[str, Any], page: Page) -> list[str]:
    """What is another today than when a row was written, apart from facts and writer."""
    templates, _, voice = page.prompt_version.partition("+")
    old_templates, _, old_voice = old["prompt_version"].partition("+")
    is_other = {
        "policy": old["policy_version"] != page.policy_version,
        "voice": old_voice != voice,
        "prompt": old_templates != templates,
    }
    return [what for what, changed in is_other.items() if changed]


def cause(page: Page, text: Text, told: Mapping[str, str]) -> str:
    """Why the copy was written, with the names of what changed."""
    old = page.before
    if old is None:
        return "new product"
    if old["status"] == RETIRED:
        return "for sale again"
    causes = [f"{what} changed" for what in changed(old, page)]
    now = {
        claim.attribute: claim.value
        for claim in text.claims
        if claim.attribute and claim.verdict == "supported"
    }
    other = [a for a in sorted({*told, *now}) if told.get(a) != now.get(a) and a not in ("title", "name")]
    names = [a if a in ("brand", "category") else f"attributes.{a}" for a in other]
    # A title that a writer may write is another one for another reason.
    if old["title"] != (text.title or None) and "title" not in get_settings().copy_fields:
        names.insert(0, "title")
    # Another writer may be asked for other fields, so the prompt changes with it.
    if old["model_name"] != text.model_name and causes in ([], ["prompt changed"]):
        causes.append(f"model changed: {old['model_name']} to {text.model_name}")
    elif old["model_version"] != text.model_version and not causes:
        causes.append("model changed")
    if not causes or "title" in names:
        # After another prompt other facts may be told, so only a title is proof that facts changed too.
        causes.insert(0, f"facts changed: {', '.join(names)}" if names else "facts changed")
    return "; ".join(causes)
