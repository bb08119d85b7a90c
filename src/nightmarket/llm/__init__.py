"""Prompts to replies: the one door to a GPT-family decoder.

A `Generator` takes requests and gives replies in their order. Runtimes stand in a file each: `local` (the packaged
SmolLM2-135M-Instruct, or a champion made from it, through llama.cpp in this process), `network` (any causal language model
through transformers, on a GPU where there is one), `endpoint` (any OpenAI-compatible server) and `batch` (a provider's batch
API, whose answers come within a day). Every reply is kept by the digest of model, prompt and parameters (`replies`), so that a
retry buys nothing twice. Not here: what is asked (`prompts`), what may go out (`guard`), how much is written (`products`).
"""

from datetime import date

from nightmarket import tracking
from nightmarket.errors import SettingMissing
from nightmarket.llm import tuned
from nightmarket.llm.asked import TEXTS, Failure, Generator, Message, Reply, Request, Spent, digest
from nightmarket.llm.batch import BatchGenerator
from nightmarket.llm.endpoint import EndpointGenerator
from nightmarket.llm.local import SMOLLM2, LocalGenerator, TunedWriter
from nightmarket.llm.network import NetworkGenerator, version_of
from nightmarket.llm.prices import Prices, prices_of
from nightmarket.llm.replies import ReplyStore
from nightmarket.llm.tuned import TASK
from nightmarket.settings import get_settings

__all__ = [
    "SMOLLM2",
    "TASK",
    "TEXTS",
    "BatchGenerator",
    "EndpointGenerator",
    "Failure",
    "Generator",
    "LocalGenerator",
    "Message",
    "NetworkGenerator",
    "Prices",
    "Reply",
    "ReplyStore",
    "Request",
    "Spent",
    "TunedWriter",
    "digest",
    "open_generator",
    "prices_of",
    "version_of",
]


def open_generator(
    day: date | None = None,
) -> LocalGenerator | NetworkGenerator | EndpointGenerator | BatchGenerator:
    """The writer by `Settings`, with the shop's store of replies: here the champion of `nightmarket.writer`, where there is
    one, else the packaged weights; or another model, here, behind an endpoint, or asked in a provider's batches.

    Nothing is loaded, verified or called before the first reply that is not in the store. An endpoint's deadline counts
    from here.

    Args:
        day: the champion is the one that served when this day began, and batches are asked for its night; None: the one
            that serves now, and nothing is asked in batches.

    Raises:
        ModelRefused: the champion belongs to other packaged weights, or the other model has no weights that may be opened.
        SettingMissing: another model is wanted, and a setting it needs is missing or cannot be used; names it.
    """
    settings = get_settings()
    store = settings.state / "llm" / "replies.sqlite"
    if settings.generator == "local":
        return LocalGenerator(store=store, threads=settings.threads, tuned=_champion(day))
    of_network, of_endpoint = ("generator_model",), ("endpoint_url", "endpoint_model")
    for name in of_network if settings.generator == "network" else of_endpoint:
        if not getattr(settings, name):
            raise SettingMissing(
                f"NIGHTMARKET_GENERATOR is `{settings.generator}`, but NIGHTMARKET_{name.upper()} is not set. Set it in the "
                f"environment or in .env (see .env.example), or set NIGHTMARKET_GENERATOR=local."
            )
    if settings.generator == "network":
        return NetworkGenerator(
            settings.generator_model or "", store=store, languages=_languages(settings.generator_languages),
            threads=settings.threads,
        )  # fmt: skip
    endpoint = EndpointGenerator(
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
        prices=prices_of(settings),
        cost_per_night=settings.copy_cost_per_night,
        night=day,
        grammar_field=settings.endpoint_grammar,
        languages=_languages(settings.endpoint_languages),
        insecure=settings.endpoint_insecure,
    )
    if settings.generator == "endpoint":
        return endpoint
    return BatchGenerator(endpoint, store=store, outbox=store.with_name("outbox.sqlite"), day=day)


def _languages(told: str) -> frozenset[str]:
    return frozenset(language.strip().lower() for language in told.split(",") if language.strip())


def _champion(day: date | None) -> TunedWriter | None:
    held = tracking.serving(TASK, day)
    if held is None:
        return None
    return tuned.writer(held.path, name=f"nightmarket.{TASK}", version=held.version)
