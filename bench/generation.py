"""Tokens per second of the writer that a night uses, beside `transformers.generate` with the same weights, prompts and machine.

    python bench/generation.py [--shop demo] [--batches 1,8] [--tokens 64] [--threads N] [--rounds 3] [--json FILE]

Prompts are those of a night. Both sides write exactly `--tokens` tokens a prompt, greedily. transformers runs the packaged weights
as fp32 (what it makes of the GGUF), a batch at a time; the writer runs the GGUF itself, which is the same numbers, and takes as
many prompts at once. Rounds take turns, and the median of each is told with the ratio of medians. Tokens of prompts are not
counted, their time is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def prompts(count: int) -> list[tuple[Any, ...]]:
    """What a night asks about products of the demo shop."""
    from nightmarket.products.product_copy import read_sheet, writing
    from nightmarket.prompts import render

    kinds = ("kettle", "lantern", "blanket", "teapot")
    rows = [
        {
            "product_id": str(n), "title": f"Alder {kinds[n % 4]} {n}", "brand": "Alder", "category": f"Home > {kinds[n % 4]}",
            "attributes": json.dumps({"Material": "steel", "Capacity": f"{100 + 10 * n} ml", "Colour": "blue"}), "locale": "en",
        }
        for n in range(count)
    ]  # fmt: skip
    return [render("product_copy", writing.own_facts(read_sheet(row)), "en") for row in rows]


def by_writer(asked: list[tuple[Any, ...]], tokens: int, writer: Any) -> float:
    """Tokens a second of the night's writer; every prompt is new to its store."""
    from nightmarket import llm

    began = time.perf_counter()
    replies = writer.attempt([llm.Request(messages, max_tokens=tokens) for messages in asked])
    seconds = time.perf_counter() - began
    return sum(reply.size for reply in replies) / seconds


def by_transformers(asked: list[tuple[Any, ...]], tokens: int, opened: tuple[Any, Any]) -> float:
    """Tokens a second of one `generate` over the batch."""
    import torch

    tokenizer, network = opened
    texts = [
        tokenizer.apply_chat_template(
            [m._asdict() for m in messages], add_generation_prompt=True, tokenize=False
        )
        for messages in asked
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    began = time.perf_counter()
    with torch.inference_mode():
        made = network.generate(**batch, max_new_tokens=tokens, min_new_tokens=1, do_sample=False)
    seconds = time.perf_counter() - began
    new = made[:, batch["input_ids"].shape[1] :]
    return int((new != tokenizer.eos_token_id).sum()) / seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    os.environ["NIGHTMARKET_THREADS"] = str(chosen.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="nightmarket-generation-") as home:
        os.environ["NIGHTMARKET_HOME"] = home
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from nightmarket import llm
        from nightmarket.training.writer import materialised

        torch.set_num_threads(chosen.threads)
        folder = materialised()
        opened = (
            AutoTokenizer.from_pretrained(folder, padding_side="left"),
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        )
        told: dict[str, Any] = {"threads": chosen.threads, "tokens": chosen.tokens}
        with llm.LocalGenerator(threads=chosen.threads) as writer:
            by_writer(prompts(1), 4, writer)  # the weights are read
            for size in map(int, chosen.batches.split(",")):
                asked = prompts(size)
                ours, theirs = [], []
                for _ in range(chosen.rounds):
                    ours.append(by_writer(asked, chosen.tokens, writer))
                    theirs.append(by_transformers(asked, chosen.tokens, opened))
                one, other = statistics.median(ours), statistics.median(theirs)
                told[str(size)] = {
                    "writer": one,
                    "transformers": other,
                    "ratio": one / other,
                    "rounds": [ours, theirs],
                }
                print(
                    f"batch {size:3d}: writer {one:6.1f} tokens/s ({min(ours):.0f} to {max(ours):.0f}), transformers "
                    f"{other:6.1f} ({min(theirs):.0f} to {max(theirs):.0f}), {one / other:.2f} times",
                    flush=True,
                )
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
