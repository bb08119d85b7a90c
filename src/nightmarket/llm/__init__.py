"""Prompts to replies: the one door to a GPT-family decoder.

A `Generator` takes requests and gives replies in their order. Runtimes stand in a file each: `local` (the packaged
SmolLM2-135M-Instruct, or a champion made from it, through llama.cpp in this process). Every reply is kept by the digest of
model, prompt and parameters (`replies`), so that a retry buys nothing twice. Not here: what is asked (`prompts`), what
may go out (`guard`), budgets (`products`).
"""

from nightmarket.llm.asked import Generator, Message, Reply, Request, digest
from nightmarket.llm.local import SMOLLM2, LocalGenerator
from nightmarket.llm.replies import ReplyStore
from nightmarket.settings import get_settings

__all__ = [
    "SMOLLM2",
    "Generator",
    "LocalGenerator",
    "Message",
    "Reply",
    "ReplyStore",
    "Request",
    "digest",
    "open_generator",
]


def open_generator() -> LocalGenerator:
    """The writer of this process by `Settings`: the packaged weights, and the shop's store of replies.

    Nothing is loaded or verified before the first reply that is not in the store.
    """
    settings = get_settings()
    return LocalGenerator(store=settings.state / "llm" / "replies.sqlite", threads=settings.threads)
