"""Prompts to replies: the one door to a GPT-family decoder.

A `Generator` takes requests and gives replies in their order. Runtimes stand in a file each: `local` (the packaged
SmolLM2-135M-Instruct, or a champion made from it, through llama.cpp in this process) and `endpoint` (any
OpenAI-compatible server). Every reply is kept by the digest of model, prompt and parameters (`replies`), so that a retry
buys nothing twice. Not here: what is asked (`prompts`), what may go out (`guard`), how much is written (`products`).
"""

from nightmarket.errors import SettingMissing
from nightmarket.llm.asked import Failure, Generator, Message, Reply, Request, Spent, digest
from nightmarket.llm.endpoint import EndpointGenerator
from nightmarket.llm.local import SMOLLM2, LocalGenerator
from nightmarket.llm.replies import ReplyStore
from nightmarket.settings import get_settings

__all__ = [
    "SMOLLM2",
    "EndpointGenerator",
    "Failure",
    "Generator",
    "LocalGenerator",
    "Message",
    "Reply",
    "ReplyStore",
    "Request",
    "Spent",
    "digest",
    "open_generator",
]


def open_generator() -> LocalGenerator | EndpointGenerator:
    """The writer of this process by `Settings`, with the shop's store of replies.

    Nothing is loaded, verified or called before the first reply that is not in the store. An endpoint's deadline counts
    from here.

    Raises:
        SettingMissing: an endpoint is wanted, and a setting it needs is missing or cannot be used; names it.
    """
    settings = get_settings()
    store = settings.state / "llm" / "replies.sqlite"
    if settings.generator == "local":
        return LocalGenerator(store=store, threads=settings.threads)
    for name in ("endpoint_url", "endpoint_model"):
        if not getattr(settings, name):
            raise SettingMissing(
                f"NIGHTMARKET_GENERATOR is `endpoint`, but NIGHTMARKET_{name.upper()} is not set. Set it in the "
                f"environment or in .env (see .env.example), or set NIGHTMARKET_GENERATOR=local."
            )
    return EndpointGenerator(
        url=settings.endpoint_url or "",
        model=settings.endpoint_model or "",
        key=settings.endpoint_key,
        revision=settings.endpoint_revision,
        store=store,
        concurrency=settings.endpoint_concurrency,
        timeout_s=settings.endpoint_timeout_s,
        stall_s=settings.endpoint_stall_s,
        tries=settings.endpoint_tries,
        deadline_s=settings.endpoint_deadline_s,
        tokens_per_run=settings.endpoint_tokens_per_run,
        grammar_field=settings.endpoint_grammar,
        languages=frozenset(
            language.strip().lower()
            for language in settings.endpoint_languages.split(",")
            if language.strip()
        ),
        insecure=settings.endpoint_insecure,
    )
