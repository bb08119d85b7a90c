"""A catalogue, edits of its copy, and a writer small enough to be tuned in a second: for tests of what needs no real weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nightmarket.settings import get_settings
from nightmarket.training.pairs import Pair
from nightmarket.training.writer import ALPHA, RANK, Method, Writer, whole
from tests.conftest import choose

KINDS = (
    "kettle", "teapot", "lantern", "blanket", "cushion", "ladle", "basket", "candle", "saucer", "whisk", "apron", "tumbler",
    "platter", "colander", "ramekin", "spatula", "trivet", "thermos", "pitcher", "skillet",
)  # fmt: skip
PLACES = ("garden", "travel", "harbour", "mountain", "meadow")


@contextmanager
def plain_shop(home: Path) -> Iterator[None]:
    """A shop without packs and a voice of its own, for fixtures of a module: a test before it may have left another chosen."""
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, HOME=str(home), SHOP="demo")
        yield
    get_settings.cache_clear()


def catalogue() -> pa.Table:
    """100 products of two facts each, on all sides."""
    rows = []
    for n in range(100):
        kind, place = KINDS[n % 20], PLACES[n // 20]
        facts = {"Material": ("steel", "oak", "cotton")[n % 3], "Capacity": f"{100 + n * 7} ml"}
        rows.append(
            {
                "product_id": f"p{n:03d}", "title": f"Alder {place} {kind}", "brand": "Alder", "category": f"Home > {kind}",
                "attributes": json.dumps(facts), "status": "active", "locale": "en",
                "description": f"The material is {facts['Material']}. Call 020 7946 0958. It cures colds.",
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows)


def edit(row: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A decision as `ops.copy_reviews` holds it: the person wants a product's text to begin with what it is made of."""
    facts = json.loads(row["attributes"])
    return {
        "product_id": row["product_id"], "channel": "shop_page", "locale": "en", "version": 1, "decision": "edit",
        "text": f"It is made of {facts['Material']}. Meet the {row['title']}.",
        "instead_of": f"Meet the {row['title']}. The material is {facts['Material']}.",
        "reviewer": "ann", "reason": None,
    } | other  # fmt: skip


def edits() -> list[dict[str, Any]]:
    """An edit of every product."""
    return [edit(row) for row in catalogue().to_pylist()]


def tiny_writer(told: Sequence[Pair], method: Method = "lora") -> Writer:
    """Two layers over the words of the catalogue's pairs and edits, that learn by a method: the same at each call."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    said = [" ".join([*(text for _, text in pair.messages), pair.text]) for pair in told]
    said += [row["text"] for row in edits()]
    split = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for text in said for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: n for n, word in enumerate(["<end>", "<unknown>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    made.pre_tokenizer = split
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<end>", unk_token="<unknown>",
        chat_template="{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, bos_token_id=0, eos_token_id=0, pad_token_id=0, tie_word_embeddings=True,
            )
        )  # fmt: skip
        if method == "full":
            return whole(tokenizer, network)
        config = LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM"
        )  # fmt: skip
        return Writer(tokenizer, get_peft_model(network, config))
