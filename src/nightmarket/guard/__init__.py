"""What must not go out, and what must not come in: personal data, hidden text, injected instructions, banned phrases,
and sentences that a product's facts do not support.

Pure functions over text; the rules are data (`policy.toml`, `attributes.toml`), and `POLICY_VERSION` is their digest.
Not here: what is done about a finding (products), prompts, and the gates over tables (`quality`).
"""

from nightmarket.guard.claims import Claim, claims, kind_of, sentences, unsupported
from nightmarket.guard.policy import POLICY_VERSION, Limits, banned, limits
from nightmarket.guard.text import Finding, escape, injection, normalise, personal, scrub

__all__ = [
    "POLICY_VERSION",
    "Claim",
    "Finding",
    "Limits",
    "banned",
    "claims",
    "escape",
    "injection",
    "kind_of",
    "limits",
    "normalise",
    "personal",
    "scrub",
    "sentences",
    "unsupported",
]
