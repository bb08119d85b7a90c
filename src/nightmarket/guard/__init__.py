"""What must not go out, and what must not come in: personal data, hidden text, injected instructions, banned phrases,
sentences that a product's facts do not support, and what a channel, a locale or a category allows.

Pure functions over text; the rules are data: `policy.toml` and `attributes.toml`, whose digest is `POLICY_VERSION`, and
policy packs (`packs.toml` and the shop's own file), each with a `version` of its own; beside them the shop's voice.
Not here: what is done about a finding (products), prompts, and the gates over tables (`quality`).
"""

from nightmarket.guard.claims import Claim, claims, kind_of, sentences, unsupported
from nightmarket.guard.pack_files import read_packs, shop_packs, shop_policy, shop_voice
from nightmarket.guard.packs import CHANNELS, FIELDS, AiLabel, Breach, Pack, Packs, check, fit, rescan
from nightmarket.guard.policy import POLICY_VERSION, banned
from nightmarket.guard.text import Finding, escape, injection, normalise, personal, scrub
from nightmarket.guard.voice import Voice, Voices

__all__ = [
    "CHANNELS",
    "FIELDS",
    "POLICY_VERSION",
    "AiLabel",
    "Breach",
    "Claim",
    "Finding",
    "Pack",
    "Packs",
    "Voice",
    "Voices",
    "banned",
    "check",
    "claims",
    "escape",
    "fit",
    "injection",
    "kind_of",
    "normalise",
    "personal",
    "read_packs",
    "rescan",
    "scrub",
    "sentences",
    "shop_packs",
    "shop_policy",
    "shop_voice",
    "unsupported",
]
